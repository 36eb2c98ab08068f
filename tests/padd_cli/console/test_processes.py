"""The command line under a launcher, and the launcher's configurations that padd ships."""

from importlib import resources

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from padd_cli.app import exit_code

CONFIGS = {
    "multi-gpu": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
}
FOLDER = resources.files("padd_cli") / "presets" / "accelerate"


def test_every_configuration_has_a_test():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in CONFIGS}


@pytest.mark.parametrize(("name", "kind"), CONFIGS.items())
def test_accelerate_reads_the_configurations(name, kind):
    path = str(FOLDER / f"{name}.yaml")
    config = load_config_from_file(path)
    assert config.distributed_type == kind
    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    settings = config.fsdp_config
    assert {key for key in settings if key not in known} == set()
    arguments, _, _ = _validate_launch_command(parser.parse_args(["--config_file", path, "-m", "padd_cli"]))
    assert {key: getattr(arguments, key) for key in settings} == pytest.approx(settings)


@pytest.mark.parametrize("words", [["export", "--student", "x"], ["run", "toy"]])
def test_commands_of_one_process_refuse_a_launcher(monkeypatch, capsys, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert exit_code(words) == 2
    assert f"`padd {words[0]}` was started on 2 processes" in capsys.readouterr().err
