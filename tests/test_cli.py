"""The command line: reaches programs by name, and turns errors into one line and an exit status."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from videoflamingo import __version__, cli
from videoflamingo.errors import ModelError, SamplingError, UsageError, VideoError

Program = Callable[[list[str]], int]
Install = Callable[[Program], None]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a function of the argument list in place of the program behind `ask`."""

    def install(main: Program) -> None:
        monkeypatch.setitem(sys.modules, "fake_program", SimpleNamespace(main=main))
        monkeypatch.setitem(cli.COMMANDS, "ask", cli.Command("fake_program", "answer"))

    return install


def raising(error: BaseException) -> Program:
    def main(argv: list[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_has_a_module(name: str) -> None:
    assert importlib.util.find_spec(cli.COMMANDS[name].module) is not None


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in cli.COMMANDS)


def test_no_arguments_is_wrong_usage_and_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: videoflamingo COMMAND")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"videoflamingo {__version__}\n"


def test_an_unknown_command_suggests_a_close_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipe", "ls"]) == 2
    assert capsys.readouterr().err == "videoflamingo: error: unknown command 'recipe'; did you mean 'recipes'?\n"


def test_an_unlikely_command_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["xyzzy"]) == 2
    assert "known commands: ask, inspect, demo" in capsys.readouterr().err


def test_a_program_gets_the_arguments_after_its_name_and_gives_the_status(program: Install) -> None:
    given = Mock(return_value=3)
    program(given)
    assert cli.main(["ask", "a.mp4", "--json"]) == 3
    given.assert_called_once_with(["a.mp4", "--json"])


def test_lightning_is_given_its_subcommand_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Mock(return_value=0)
    monkeypatch.setitem(sys.modules, cli.COMMANDS["fit"].module, SimpleNamespace(main=given))
    assert cli.main(["fit", "--config", "a.yaml"]) == 0
    given.assert_called_once_with(["fit", "--config", "a.yaml"])


@pytest.mark.parametrize(
    ("error", "status"),
    [(UsageError("no such"), 2), (SamplingError("no such"), 2), (ModelError("no such"), 2), (VideoError("no such"), 3)],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_our_errors_become_one_line_and_a_status(
    program: Install,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
) -> None:
    program(raising(error))
    assert cli.main(["ask"]) == status
    assert capsys.readouterr().err == "videoflamingo: error: no such\n"


def test_an_unexpected_error_keeps_its_traceback(program: Install) -> None:
    program(raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["ask"])


def test_ctrl_c_is_130(program: Install) -> None:
    program(raising(KeyboardInterrupt()))
    assert cli.main(["ask"]) == 130


@pytest.mark.parametrize(("code", "status"), [(None, 0), (2, 2), ("went wrong", 1)])
def test_a_program_that_exits_is_a_status(program: Install, code: object, status: int) -> None:
    program(raising(SystemExit(code)))
    assert cli.main(["ask"]) == status


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    """More output than a pipe holds, to a reader that reads one line."""
    script = (
        "import sys, types; from videoflamingo import cli;"
        "sys.modules['fake_program'] = types.SimpleNamespace(main=lambda argv: print('line\\n' * 100_000) or 0);"
        "cli.COMMANDS['ask'] = cli.Command('fake_program', 'answer');"
        "sys.argv = ['videoflamingo', 'ask']; cli.entry()"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.readline()
    writer.stdout.close()
    complaints = writer.stderr.read()
    assert (writer.wait(), complaints) == (141, b"")


def test_the_module_runs_like_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "videoflamingo", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"videoflamingo {__version__}\n"
