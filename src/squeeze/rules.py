"""The rules a submission must keep, checked without unpacking and without any engine."""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from squeeze import contest
from squeeze.contest import Json
from squeeze.errors import ConfigError
from squeeze.package import ROOT, Package, Tensors, open_folder, read_tensors

_CODE = (".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".onnx")
_MAX_RATIO = 200  # unpacked over packed; weights reach 2, JSON 20, a bomb 1000
_FUSED = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj"))
_LAYER = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
    "post_attention_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class Rule:
    """One rule's outcome; detail gives what was found, and the remedy where it is broken."""

    name: str
    ok: bool
    detail: str


_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, EOFError, struct.error),
    UnicodeDecodeError,  # a name that is said to be UTF-8 and is not
    OSError,  # a place before the file's beginning
)
"""What reading a damaged archive raises."""


def rules(path: Path) -> list[Rule]:
    """Check a zip, an unpacked submission (a folder holding ``model/``) or a model folder by every rule.

    Reading stops at the first rule whose breach makes going on unsafe (sizes, names). Raises ConfigError
    when the path does not exist or is a file that is no zip.
    """
    if path.is_dir():
        package = open_folder(path)
        return [*_names(list(package.sizes)), *_content(package)]
    if not path.exists():
        raise ConfigError(f"check needs a zip or a model folder; {path} does not exist")
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"a submission is a zip file; {path} is none; make one with search.export")
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_zip(archive, path.stat().st_size))
    except _DAMAGE as error:
        return [Rule("zip", False, f"the archive is damaged: {error}; write it again with search.export")]


def _zip(archive: zipfile.ZipFile, packed: int) -> Iterator[Rule]:
    infos = archive.infolist()
    unpacked = sum(info.file_size for info in infos)
    found = f"{packed:,} bytes zipped, {unpacked:,} unpacked"
    bombs = [info.filename for info in infos if info.file_size > _MAX_RATIO * max(info.compress_size, 1024)]
    overlap = sum(info.compress_size for info in infos) > packed
    if bombs or overlap or unpacked > _MAX_RATIO * packed:
        yield Rule("size", False, f"{found}: entries overlap or unfold too far {bombs[:1]}; a zip bomb")
        return
    fits = packed <= contest.ZIPPED_BYTES and unpacked <= contest.UNPACKED_BYTES
    limits = (
        f"at most {contest.ZIPPED_BYTES // 10**9} GB zipped, {contest.UNPACKED_BYTES // 10**9} GB unpacked"
    )
    yield Rule("size", fits, found if fits else f"{found}; {limits}; compress the model more")
    if not fits:
        return
    special = [
        info.filename
        for info in infos
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)
    ]
    locked = [info.filename for info in infos if info.flag_bits & 0x1]
    yield Rule(
        "plain files",
        not special and not locked,
        f"links, devices or encrypted: {', '.join(special + locked)}" if special or locked else "no links",
    )
    outcome = list(_names([info.filename for info in infos]))
    yield from outcome
    if special or locked or not all(rule.ok for rule in outcome):
        return
    damaged = archive.testzip()
    yield Rule(
        "checksums", damaged is None, f"{damaged} is damaged; export again" if damaged else "all right"
    )
    if damaged is None:
        sizes = {info.filename: info.file_size for info in infos if not info.is_dir()}
        yield from _content(Package(sizes, archive.open))


def _names(names: list[str]) -> Iterator[Rule]:
    bad = [
        name
        for name in names
        if name.startswith("/")
        or "\\" in name
        or ":" in name
        or ".." in PurePosixPath(name).parts
        or not name
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    detail = f"absolute, '..' or foreign: {bad[:3]}" if bad else f"twice: {twice[:3]}"
    yield Rule("names", not bad and not twice, detail if bad or twice else f"{len(names)} names, each once")
    roots = sorted({name.split("/")[0] for name in names})
    single = roots == [ROOT] and all("/" in name for name in names)
    yield Rule(
        "one root", single, f"{ROOT}/" if single else f"only {ROOT}/ may be at the top; got {roots[:5]}"
    )


def _content(package: Package) -> Iterator[Rule]:
    """The rules about what is inside; each is reported, whatever the others say."""
    tensors: Tensors = {}
    config: Json = {}

    def weights() -> list[str]:
        tensors.update(read_tensors(package))
        return _missing_tensors(tensors, config)

    def read_config() -> list[str]:
        config.update(package.json("config.json"))
        return contest.config_faults(config)

    checks: list[tuple[str, Callable[[], list[str]]]] = [
        ("no code", lambda: code_faults(package)),
        ("config", read_config),
        ("weights", weights),
        ("tokenizer", lambda: _tokenizer(package, config)),
        ("chat template", lambda: _template(package)),
        ("generation config", lambda: [] if package.json("generation_config.json") else ["it is empty"]),
        ("quantization", lambda: _quantization(config, tensors)),
    ]
    for name, check in checks:
        try:
            faults = check()
        except ValueError as error:
            faults = [str(error)]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            # JSON of another shape than a model's: whatever trips over it is the rule that it breaks.
            faults = [f"a value is not of the kind it must be ({type(error).__name__}: {error})"]
        yield Rule(name, not faults, "; ".join(faults[:3]) or "as the server reads it")


def code_faults(package: Package) -> list[str]:
    """Files that run or unpickle, and configs that ask for code. Raises ValueError for what is no JSON."""
    faults = [f"{name} is code or a pickle" for name in package.sizes if name.lower().endswith(_CODE)]
    for name in ("config.json", "tokenizer_config.json"):
        if package.has(name) and "auto_map" in package.json(name):
            faults.append(f"{name} has auto_map, which asks for remote code")
    return faults


def _missing_tensors(tensors: Tensors, config: Json) -> list[str]:
    """Parts of the decoder that the weights lack or have too many of."""
    modules = {name.rsplit(".", 1)[0] for name in tensors}
    layers = config.get("num_hidden_layers", 0)
    wanted = {f"model.layers.{layer}.{part}" for layer in range(layers) for part in _LAYER}
    wanted |= {"model.embed_tokens", "model.norm"}
    if not config.get("tie_word_embeddings"):
        wanted.add("lm_head")
    faults = [f"{name} is missing" for name in sorted(wanted - modules)]
    faults += [f"{name} belongs to no layer of the config" for name in sorted(modules - wanted - {"lm_head"})]
    shape = (config.get("vocab_size"), config.get("hidden_size"))
    found = tensors.get("model.embed_tokens.weight", ("", ()))[1]
    if found != shape:
        faults.append(f"model.embed_tokens.weight must have the shape {shape}; got {found}")
    return faults


def _tokenizer(package: Package, config: Json) -> list[str]:
    faults = contest.tokenizer_faults(package.json("tokenizer_config.json"))
    if package.has("tokenizer.json"):
        tokenizer = package.json("tokenizer.json")
        vocab = tokenizer.get("model", {}).get("vocab", {})
        ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
        ids += [token.get("id", 0) for token in tokenizer.get("added_tokens", [])]
        size = config.get("vocab_size", 0)
        if not ids or max(ids) >= size:
            faults.append(
                f"the tokenizer's ids go to {max(ids, default=-1)}; the model has {size} embeddings"
            )
    elif not package.has("tokenizer.model") and not (package.has("vocab.json") and package.has("merges.txt")):
        faults.append("tokenizer.json is missing")
    return faults


def _template(package: Package) -> list[str]:
    if package.has("chat_template.jinja"):
        return []
    inline = package.json("tokenizer_config.json").get("chat_template")
    return [] if inline else ["neither chat_template.jinja nor a chat_template in tokenizer_config.json"]


def _quantization(config: Json, tensors: Tensors) -> list[str]:
    quantization = config.get("quantization_config")
    kinds: dict[str, set[tuple[str, str]]] = {}
    for name, (dtype, _) in tensors.items():
        module, kind = name.rsplit(".", 1)
        kinds.setdefault(module, set()).add((kind, dtype))
    packed = any(kind.endswith(("_packed", "_scale")) for found in kinds.values() for kind, _ in found)
    if quantization is None:
        return ["the weights are quantized, the config does not say so"] if packed else []
    if not isinstance(quantization, dict):
        return ["quantization_config must be an object"]
    faults = contest.quantization_faults(quantization)
    if kinds.get("lm_head", set()) - {("weight", "BF16"), ("weight", "F16")}:
        faults.append("lm_head is quantized")
    for layer in range(config.get("num_hidden_layers", 0)):
        for group in _FUSED:
            names = [f"model.layers.{layer}.{part}" for part in group]
            schemes = {contest.scheme_of(name, quantization) for name in names}
            stored = {frozenset(kinds.get(name, set())) for name in names}
            if len(schemes) > 1 or len(stored) > 1:
                faults.append(f"layer {layer}: {', '.join(group)} are fused and need one scheme")
    return faults
