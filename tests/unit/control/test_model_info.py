"""Descriptions of models: right counts for torch modules of every kind, something true for anything else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from advlog_fast.control.model_info import MAX_LAYERS, describe_model


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_a_module_is_counted_by_parameters_buffers_bytes_types_and_devices(torch):
    model = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.BatchNorm1d(20), torch.nn.ReLU())
    model[0].bias.requires_grad_(False)
    described = describe_model(model)
    assert described["class"] == "torch.nn.modules.container.Sequential"
    assert described["total_parameters"] == 200 + 20 + 20 + 20
    assert described["trainable_parameters"] == 200 + 20 + 20
    assert described["buffers"] == 20 + 20 + 1
    assert described["bytes"] == 260 * 4 + 40 * 4 + 8
    assert described["dtypes"] == {"float32": 260}
    assert described["devices"] == {"cpu": 260}
    assert described["uninitialized_parameters"] == 0
    assert described["layers"] == [
        {"name": "0", "type": "Linear", "parameters": 220},
        {"name": "1", "type": "BatchNorm1d", "parameters": 40},
        {"name": "2", "type": "ReLU", "parameters": 0},
    ]
    assert described["layers_left_out"] == 0
    assert json.loads(json.dumps(described)) == described


def test_types_and_devices_are_split(torch):
    model = torch.nn.ModuleDict(
        {
            "small": torch.nn.Linear(4, 4, bias=False).to(torch.bfloat16),
            "meta": torch.nn.Linear(3, 3, device="meta"),
        }
    )
    described = describe_model(model)
    assert described["dtypes"] == {"bfloat16": 16, "float32": 12}
    assert described["devices"] == {"cpu": 16, "meta": 12}
    assert described["bytes"] == 16 * 2 + 12 * 4


def test_a_shared_parameter_counts_once(torch):
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(100, 8), "head": torch.nn.Linear(8, 100, bias=False)})
    model["head"].weight = model["embed"].weight
    described = describe_model(model)
    assert described["total_parameters"] == 800
    assert [layer["parameters"] for layer in described["layers"]] == [800, 0]


def test_a_module_used_twice_counts_once(torch):
    block = torch.nn.Linear(4, 4)
    assert describe_model(torch.nn.Sequential(block, torch.nn.ReLU(), block))["total_parameters"] == 20


def test_parameters_of_a_module_with_children_are_in_the_table(torch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))
            self.layer = torch.nn.Linear(3, 2)

    described = describe_model(Model())
    assert [(row["name"], row["parameters"]) for row in described["layers"]] == [("", 3), ("layer", 8)]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_parameter_is_counted_when_its_size_is_known(torch):
    model = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Linear(4, 2))
    described = describe_model(model)
    assert (described["total_parameters"], described["uninitialized_parameters"]) == (10, 2)
    model(torch.zeros(1, 3))
    described = describe_model(model)
    assert (described["total_parameters"], described["uninitialized_parameters"]) == (26, 0)


def test_the_layer_table_is_bounded_and_says_what_it_left_out(torch):
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(MAX_LAYERS + 7)))
    described = describe_model(model)
    assert (len(described["layers"]), described["layers_left_out"]) == (MAX_LAYERS, 7)
    assert described["total_parameters"] == 2 * (MAX_LAYERS + 7)


def test_wrapped_modules_are_counted_alike(torch, tmp_path):
    inner = torch.nn.Linear(5, 5)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = [
            torch.nn.DataParallel(inner),
            torch.compile(inner, backend="eager"),
            torch.nn.parallel.DistributedDataParallel(inner),
        ]
        described = [describe_model(model) for model in wrapped]
    finally:
        torch.distributed.destroy_process_group()
    assert [found["total_parameters"] for found in described] == [30, 30, 30]
    assert [found["layers"][-1]["parameters"] for found in described] == [30, 30, 30]


def test_no_value_of_a_parameter_is_read(torch):
    """A tensor on the meta device has none, and refuses to give one."""
    model = torch.nn.Linear(1000, 1000, device="meta")
    with pytest.raises((NotImplementedError, RuntimeError)):
        model.weight.sum().item()
    described = describe_model(model)
    assert described["total_parameters"] == 1_001_000
    assert "error" not in described


def test_torch_is_not_imported_for_a_model_that_has_nothing_to_do_with_it():
    script = (
        "import sys\n"
        "from advlog_fast.control.model_info import describe_model\n"
        "assert describe_model(object()) == {'class': 'builtins.object'}\n"
        "assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=180)


def test_an_estimator_gives_its_hyperparameters_and_its_fitted_weights():
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LogisticRegression(C=0.5)
    described = describe_model(model)
    assert described["hyperparameters"]["C"] == 0.5
    assert "total_parameters" not in described
    model.fit([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], [0, 1, 1, 0])
    described = describe_model(model)
    assert described["total_parameters"] == 3
    assert json.dumps(described)


def test_an_estimator_of_many_weight_arrays():
    neural_network = pytest.importorskip("sklearn.neural_network")
    model = neural_network.MLPClassifier(hidden_layer_sizes=(3,), max_iter=2000, solver="lbfgs", random_state=0)
    model.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    assert describe_model(model)["total_parameters"] == 2 * 3 + 3 + 3 + 1


def test_nested_arrays_are_counted_each_once():
    numpy = pytest.importorskip("numpy")
    weight = numpy.zeros((4, 5))
    tree = {"layer": [{"weight": weight, "bias": numpy.zeros(5)}, {"tied": weight}], "name": "mlp"}
    tree["itself"] = tree
    assert describe_model(tree) == {"class": "builtins.dict", "total_parameters": 25}


def test_an_object_with_parameters_is_counted():
    numpy = pytest.importorskip("numpy")

    class Model:
        def parameters(self):
            return iter([numpy.zeros(3), numpy.zeros((2, 2))])

    assert describe_model(Model())["total_parameters"] == 7


def test_a_model_that_counts_itself_is_believed():
    class Model:
        def count_params(self):
            return 42

    assert describe_model(Model())["total_parameters"] == 42


@pytest.mark.parametrize("model", ["a name", 3, [], {}, object(), print, int])
def test_anything_gives_at_least_its_class(model):
    described = describe_model(model)
    assert described["class"].endswith(type(model).__name__)
    assert "total_parameters" not in described
    assert "error" not in described


def test_a_model_whose_own_methods_fail_costs_no_run():
    class Model:
        def parameters(self):
            raise RuntimeError("not now")

    described = describe_model(Model())
    assert described["error"] == "RuntimeError: not now"


def test_none_is_no_model():
    with pytest.raises(TypeError, match="model: expected a model, got NoneType None"):
        describe_model(None)
