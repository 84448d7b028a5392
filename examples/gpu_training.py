"""A training on a GPU whose loss and gradient norm are logged at every step, and never waited for.

    python examples/gpu_training.py                 # plain PyTorch
    python examples/gpu_training.py --compile       # the model through torch.compile
    python examples/gpu_training.py --cuda-graph    # the whole step captured once, and replayed

No `.item()` anywhere: it would stop the host until the GPU has finished everything before it. Without a GPU it trains
on the CPU, where a tensor's value is there already.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from advlog_fast import AdvancedLogger

BATCH, FEATURES, CLASSES = 256, 64, 10

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of inputs and labels: trains on them; the loss and the norm of the gradient, where they are."""


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    loss_of = nn.CrossEntropyLoss()

    def step(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss: Tensor = loss_of(model(inputs), labels)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        return loss, norm

    return step


def captured(step: Step, inputs: Tensor, labels: Tensor) -> Step:
    """The step as a CUDA graph. Its results lie where the next replay will overwrite them: logging copies them before,
    since it comes between the two on the same stream. A call of the logger inside the capture would copy nothing."""
    inputs, labels = inputs.clone(), labels.clone()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(inputs, labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(inputs, labels)

    def replay(new_inputs: Tensor, new_labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs.copy_(new_inputs)
        labels.copy_(new_labels)
        graph.replay()
        return results

    return replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-dir", default="logs")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graph", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        print("there is no GPU: training on the CPU")

    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(FEATURES, 512), nn.ReLU(), nn.Linear(512, CLASSES)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    teacher = torch.randn(FEATURES, CLASSES, device=device)
    if args.compile:
        model.compile()  # the call of the logger stays outside: in there it would break the graph
    step = training_step(model, optimizer)

    def batch() -> tuple[Tensor, Tensor]:
        inputs = torch.randn(BATCH, FEATURES, device=device)
        return inputs, (inputs @ teacher).argmax(dim=1)

    if args.cuda_graph and device.type == "cuda":
        step = captured(step, *batch())

    with AdvancedLogger(args.log_dir, "gpu_training") as log:
        log.start_training(args)
        log.log_model_info(model)
        for number in range(1, args.steps + 1):
            began = time.perf_counter()
            loss, norm = step(*batch())
            log.log_batch_progress(1, number, args.steps, loss, gradient_norm=norm, samples=BATCH)
            log.log_performance_metrics(time.perf_counter() - began)  # of the host, which runs ahead of the GPU
        log.end_training()
        never_came = sum(log.health().unresolved.values())
    print(f"{args.steps} steps on {device}; {never_came} values never came")


if __name__ == "__main__":
    main()
