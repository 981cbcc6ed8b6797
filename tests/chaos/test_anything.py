"""Whatever is written into configurations, zips and command lines: an answer or a clean error."""

from __future__ import annotations

import json
import string
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from searches import LONG

from search import bench, build, check, dashboard, export, run, show, status
from search.cli import in_a_line, printable, run_command
from search.storage import open_storage
from squeeze.bench.workload import load_workload
from squeeze.config import CompressionConfig, load_config, parse_config
from squeeze.errors import ConfigError, SetupError
from squeeze.rules import rules

many = settings(
    max_examples=2000 if LONG else 60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Five properties: 10,000 cases in the long form."""

WORDS = st.sampled_from(
    [
        *CompressionConfig.model_fields,
        *("layers", "method", "drop", "width", "step", "calibration", "text", "samples", "length", "source"),
        *(
            "scheme",
            "algorithm",
            "dampening",
            "group_size",
            "epochs",
            "steps",
            "learning_rate",
            "batch",
            "rank",
        ),
        *("uniform", "explicit", "W8A8", "W4A16", "gptq", "rtn", "manta", "questions", "kmmlu_pro", "engine"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "depth": st.fixed_dictionaries(
            {"layers": st.integers(1, 9)},
            optional={"method": st.sampled_from(["uniform", "top", "influence"]), "keep_ends": st.booleans()},
        ),
        "width": st.builds(lambda count: {"width": 128 * count}, st.integers(1, 40)),
        "distill": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(1, 1000),
                "learning_rate": st.floats(1e-300, 0.999),
                "temperature": st.floats(1e-300, 20),
                "cross_entropy": st.floats(0, 0.999),
                "text": st.fixed_dictionaries(
                    {}, optional={"source": st.text(max_size=9).filter(lambda s: s != "random")}
                ),
            },
        ),
        "finetune": st.fixed_dictionaries(
            {}, optional={"rank": st.integers(1, 1024), "alpha": st.floats(1e-9, 1e9)}
        ),
        "quantize": st.fixed_dictionaries(
            {"scheme": st.sampled_from(["W8A8", "W4A16", "FP8", "FP8_DYNAMIC", "W8A16"])},
            optional={"dampening": st.floats(1e-12, 0.99), "algorithm": st.just("rtn")},
        ),
    },
)
NAMES = st.text(
    st.sampled_from([*"/\\.:%~ \x00\n\x1b\u202e한", *string.ascii_letters]) | st.characters(), max_size=24
) | st.sampled_from(
    ["model/config.json", "model/../x", "/model/x", "C:\\x", "model", "model/", "../model/config.json"]
)


def refused_in_a_line(call: Callable[[], Any]) -> Any:
    """What the call returns; None when it is refused as a user's or a machine's mistake is."""
    try:
        return call()
    except (ConfigError, SetupError) as error:
        told = in_a_line(error)
        assert told
        assert "\n" not in told
        assert printable(told) == told
        return None


@many
@given(PARTS)
def test_a_configuration_goes_to_json_and_yaml_and_back(parts: dict[str, Any]) -> None:
    try:
        config = parse_config(parts, "here")
    except ConfigError as error:
        assert "scheme" in parts.get("quantize", {}), error  # rtn is not for every scheme
        return
    assert CompressionConfig.model_validate_json(config.model_dump_json()) == config
    again = parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "there")
    assert again == config
    assert again.key == config.key
    assert hash(again) == hash(config)


@many
@given(st.builds(yaml.safe_dump, PLAIN) | st.builds(json.dumps, PLAIN) | st.text() | st.binary())
def test_a_file_is_a_configuration_or_one_line_says_why_not(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    for load in (load_config, load_workload):
        refused_in_a_line(lambda load=load: load(path))  # type: ignore[misc]


@many
@given(st.lists(st.tuples(NAMES, st.binary(max_size=64), st.integers(0, 0xFFFF)), max_size=5), st.data())
def test_a_zip_is_judged_whatever_is_in_it(
    tmp_path: Path, entries: list[tuple[str, bytes, int]], data: st.DataObject
) -> None:
    path = tmp_path / "submit.zip"
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as archive:  # equal names
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name.encode("utf-8", "ignore").decode())
            info.external_attr = mode << 16
            archive.writestr(info, content)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) // 2]))])
    found = refused_in_a_line(lambda: rules(path))
    assert found is None or not all(rule.ok for rule in found)


@many
@given(
    st.sampled_from([run, show, status, build, bench, export, check, dashboard]),
    st.lists(
        st.sampled_from(
            [
                *(
                    "--study",
                    "--trial",
                    "--trials",
                    "--space",
                    "--objective",
                    "--model",
                    "--workload",
                    "--data",
                ),
                *(
                    "--storage",
                    "--json",
                    "--pareto",
                    "--top",
                    "--out",
                    "--seed",
                    "--audit",
                    "--cache-gib",
                    "--port",
                ),
            ]
        )
        | st.text(max_size=6)
        | st.integers().map(str)
        | st.floats().map(str)
        | NAMES.map(lambda name: name.replace("\x00", "")),  # an argument cannot hold it
        max_size=6,
    ),
)
def test_a_command_line_is_refused_in_one_line(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Any,
    words: list[str],
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # a word may look like a hub id
    missing = ["--workload", "no-such-file.yaml"] if command in (run, bench) else []  # nothing ever runs
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: command.main([*words, *missing]))
    said = capsys.readouterr().err
    assert ended.value.code in ((0, 1, 2, 3) if command is check else (0, 2, 3))  # 1: not acceptable
    if ended.value.code in (2, 3):
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert printable(said) == said


@many
@given(
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(
                ["sqlite", "://", "/", ":", "@", "?", "&", "=", "password", "mysql", "oracle", "%", "+x", "["]
            )
            | st.text(max_size=4),
            max_size=8,
        ),
    ).filter(lambda url: "postgresql" not in url)
)
def test_a_storage_is_refused_in_one_line(workplace: Path, url: str) -> None:
    assert refused_in_a_line(lambda: open_storage(url, create=False)) is None  # no file is here
