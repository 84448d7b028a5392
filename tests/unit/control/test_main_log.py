"""The stdlib logger that writes the main log."""

import logging
import threading
from pathlib import Path

import pytest
from run_files import text_lines

from advlog_fast import AdvancedLogger
from advlog_fast.control.line_file import LineFile
from advlog_fast.control.main_log import MainLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run_main.log"


@pytest.fixture
def open_log(path):
    made = []

    def make(level=logging.INFO, capture=False, **options):
        file = LineFile(path, max_bytes=1 << 20, max_files=3)
        log = MainLog(file, "run", level, capture, **options)
        made.append((log, file))
        return log

    yield make
    for log, file in made:
        log.close()
        file.close()


def test_a_message_is_a_line_with_time_and_level(open_log, path):
    open_log().logger.info("batch %d of %s", 3, "many")
    (line,) = text_lines(path)
    assert (line.level, line.text) == ("INFO", "batch 3 of many")


def test_a_forged_message_is_one_line(open_log, path):
    open_log().logger.error("a\r\nERROR forged\x1b[2J\x00")
    (line,) = text_lines(path)
    assert line.text == "a\\r\\nERROR forged\\x1b[2J\\x00"


def test_an_exception_is_told_of_and_the_line_holds_its_message_alone(open_log, path):
    told = []
    log = open_log(on_error=lambda *found: told.append(found))
    try:
        int("seven")
    except ValueError as error:
        log.logger.exception("failed\nat once")
        log.logger.warning("again", exc_info=error)
        log.logger.warning("none", exc_info=(None, None, None))
        function = "test_an_exception_is_told_of_and_the_line_holds_its_message_alone"
        wanted = [(error, logging.ERROR, function, "failed\nat once"), (error, logging.WARNING, function, "again")]
        assert told == wanted
    assert [line.text for line in text_lines(path)] == ["failed\\nat once", "again", "none"]


def test_a_stack_is_on_the_same_line(open_log, path):
    open_log().logger.info("here", stack_info=True)
    (line,) = text_lines(path)
    assert line.text.startswith("here\\nStack (most recent call last):\\n")


def test_messages_below_the_level_are_left_out(open_log, path):
    log = open_log(logging.WARNING)
    log.logger.info("no")
    log.say(logging.INFO, "no")
    log.logger.warning("yes")
    assert [line.text for line in text_lines(path)] == ["yes"]


def test_the_level_of_the_logger_can_be_changed_and_not_that_of_what_is_captured(open_log, path):
    log = open_log(capture=True)
    log.logger.setLevel(logging.DEBUG)
    log.logger.debug("own")
    other = logging.getLogger("chatty")
    other.setLevel(logging.DEBUG)
    other.debug("no")
    other.setLevel(logging.NOTSET)
    assert [line.text for line in text_lines(path)] == ["own"]


def test_a_line_that_is_said_is_escaped_already(open_log, path):
    said = r'options x="[\"a\\b\"]"'
    open_log().say(logging.INFO, said)
    assert text_lines(path)[0].text == said


def test_a_message_that_cannot_be_formatted_is_written_as_it_came(open_log, path, capsys):
    open_log().logger.info("%d files", "three")
    (line,) = text_lines(path)
    assert line.text.startswith("'%d files' (not formatted: TypeError: ")
    assert capsys.readouterr().err == ""


def test_a_message_said_is_not_taken_for_a_format(open_log, path):
    open_log().say(logging.INFO, "100% of %s")
    assert text_lines(path)[0].text == "100% of %s"


def test_the_logger_is_in_nobodys_registry(open_log):
    log = open_log()
    assert log.logger.name not in logging.Logger.manager.loggerDict
    assert log.logger is not logging.getLogger(log.logger.name)
    del logging.Logger.manager.loggerDict[log.logger.name]


def test_captured_loggers_are_named_until_the_log_is_closed(open_log, path):
    root = logging.getLogger()
    before = list(root.handlers)
    log = open_log(capture=True)
    logging.getLogger("captured.library").warning("slow")
    log.logger.warning("own")
    log.close()
    logging.getLogger("captured.library").warning("late")
    assert [line.text for line in text_lines(path)] == ["captured.library: slow", "own"]
    assert root.handlers == before


def test_messages_of_many_threads_are_all_there(open_log, path):
    log = open_log()
    threads = [
        threading.Thread(target=lambda t=t: [log.logger.info("%d %d", t, i) for i in range(200)]) for t in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({line.text for line in text_lines(path)}) == 1600


def texts(path: Path) -> list[str]:
    """The user's lines, without their times."""
    lines = [line.partition(" ")[2] for line in path.read_text().splitlines()]
    return [line for line in lines if "attempt_" not in line and "options " not in line]


def test_the_level_and_a_span_of_disable_act_at_once_and_only_while_they_hold(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.logger.debug("one")
        log.logger.setLevel(logging.DEBUG)
        log.logger.debug("two")
        log.logger.setLevel(logging.ERROR)
        log.logger.info("three")
        log.logger.setLevel(logging.INFO)
        logging.disable(logging.CRITICAL)
        log.logger.critical("four")
        log.log_error("five", "op")
        logging.disable(logging.NOTSET)
        log.logger.info("six")
    main = texts(tmp_path / "run_main.log")
    assert main == ["DEBUG two", "ERROR error id=e1 category=other operation=op type=Message message=five", "INFO six"]


def test_a_child_logs_into_the_run_by_its_short_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with AdvancedLogger(tmp_path, "run", console="plain", parquet=False) as log:
        data = log.logger.getChild("data")
        assert data is log.logger.getChild("data")
        data.info("one")
        data.getChild("disk").warning("two")
        log.logger.getChild("data.disk").error("three")
        log.logger.setLevel(logging.ERROR)
        data.warning("four")
        data.setLevel(logging.DEBUG)
        data.debug("five")
    assert texts(tmp_path / "run_main.log") == [
        "INFO data: one",
        "WARNING data.disk: two",
        "ERROR data.disk: three",
        "DEBUG data: five",
    ]
    assert not [name for name in logging.Logger.manager.loggerDict if name.startswith("advlog_fast.run")]
    shown = capfd.readouterr().err
    assert "[advlog] warning: two\n" in shown
    assert "[advlog] error: three\n" in shown
    assert "one" not in shown


def test_an_exception_is_shown_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with AdvancedLogger(tmp_path, "run", console="plain", parquet=False) as log:
        try:
            raise ValueError("of the batch")
        except ValueError:
            log.logger.exception("while training")
    assert capfd.readouterr().err.count("of the batch") == 1


@pytest.mark.parametrize("how", ["dictConfig", "basicConfig"])
def test_a_capture_that_others_end_begins_again_and_both_are_said(tmp_path: Path, run_python, how: str):
    code = f"""
import logging, logging.config, time
from advlog_fast import AdvancedLogger
def replace():
    if {how!r} == "dictConfig":
        logging.config.dictConfig({{"version": 1, "disable_existing_loggers": False, "root": {{"handlers": []}}}})
    else:
        logging.basicConfig(force=True)
with AdvancedLogger("here", "run", console="off", capture_logging=True, parquet=False) as log:
    logging.getLogger("lib").warning("before")
    replace()
    main = log._session.parts.control.outputs.main
    while main.has_lost_capture():
        time.sleep(0.01)
    logging.getLogger("lib").warning("after")
    replace()
"""
    ended = run_python("-c", code)
    assert ended.returncode == 0, ended.stderr
    lost = "WARNING capture_logging: the handlers of the root logger were replaced, and it"
    assert texts(tmp_path / "here" / "run_main.log") == [
        "WARNING lib: before",
        f"{lost} is captured again; what was logged meanwhile is missing here",
        "WARNING lib: after",
        f"{lost} was no longer captured at the end",
    ]


def test_what_a_call_gives_as_extra_is_kept(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.logger.info("saved", extra={"path": "a b.pt", "size": 3.0, "api_key": "KEY", "nested": {"token": "KEY"}})
        log.logger.warning("two\nlines", extra={"of\none": "C:\\new"})
        logging.LoggerAdapter(log.logger, {"worker": 3}).info("adapted")
    assert texts(tmp_path / "run_main.log") == [
        'INFO saved path="a b.pt" size=3.0 api_key=*** nested="{\\"token\\":\\"***\\"}"',
        'WARNING two\\nlines "of\\none"="C:\\\\new"',
        "INFO adapted worker=3",
    ]


def test_an_extra_stands_on_the_console_too_and_none_is_a_value(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with AdvancedLogger(tmp_path, "run", console="plain", parquet=False) as log:
        log.logger.warning("two\nlines", extra={"path": "C:\\new", "found": None})
    assert texts(tmp_path / "run_main.log") == ['WARNING two\\nlines path="C:\\\\new" found=null']
    assert '[advlog] warning: two\\nlines path="C:\\\\new" found=null\n' in capfd.readouterr().err


def test_what_cannot_be_read_in_an_extra_costs_only_itself(tmp_path: Path):
    class Unreadable:
        def __getattribute__(self, name):
            raise ValueError(name)

    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.logger.info("kept", extra={"bad": Unreadable(), "good": 1})
    (line,) = texts(tmp_path / "run_main.log")
    assert line.startswith("INFO kept bad=")
    assert line.endswith(" good=1")


def test_the_handler_writes_what_a_librarys_logger_is_given(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    library = logging.getLogger("advlog_test.library")
    library.propagate = False
    with AdvancedLogger(tmp_path, "run", console="plain", parquet=False) as log:
        library.addHandler(log.handler)
        library.warning("slow disk", extra={"seconds": 3})
        library.debug("no")
        try:
            raise ValueError("of the library")
        except ValueError:
            library.exception("failed")
    library.info("later, and of no weight")
    shown = capfd.readouterr().err
    assert "slow disk" not in shown
    assert "later" not in shown
    library.warning("later")
    assert capfd.readouterr().err == "later\n", "what reaches no other handler"
    library.removeHandler(log.handler)
    assert texts(tmp_path / "run_main.log") == [
        "WARNING advlog_test.library: slow disk seconds=3",
        "ERROR advlog_test.library: failed",
    ]
    assert "of the library" in (tmp_path / "run_errors.log").read_text()


def test_a_disabled_logger_has_a_handler_too(tmp_path: Path):
    library = logging.getLogger("advlog_test.nowhere")
    library.propagate = False
    library.addHandler(AdvancedLogger(tmp_path / "none", "run", enabled=False).handler)
    library.warning("nowhere")
    assert not (tmp_path / "none").exists()
