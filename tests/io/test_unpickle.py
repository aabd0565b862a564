"""Hostile pickles: nothing in them runs, and nothing large comes out of something small."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_cams import box, maps, save, write_npy

from pixaff.errors import FormatError
from pixaff.io.cams import read_cams
from pixaff.io.unpickle import Budget, Built, Function, read_pickle

ROWS = maps()


class Call:
    """Becomes a call when it is pickled, and is carried out when that is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


def text(word: str) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word.encode()


def named(module: str, name: str) -> bytes:
    """Two strings and STACK_GLOBAL, which follows dots in the name from protocol 4 on."""
    return text(module) + text(name) + b"\x93"


def command(path: Path) -> str:
    return f'echo ran > "{path}"'


def python(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def in_a_map(path: Path) -> bytes:
    return pickle.dumps(box({7: Call(os.system, command(path))}))


def as_a_key(path: Path) -> bytes:
    return pickle.dumps(box({Call(os.system, command(path)): ROWS[0]}))


def before_good_maps(path: Path) -> bytes:
    return pickle.dumps(box({7: ROWS[0], "x": Call(eval, python(path)), 14: ROWS[1]}))


def bare(path: Path) -> bytes:
    return pickle.dumps(Call(os.system, command(path)))


def protocol_0(path: Path) -> bytes:
    return pickle.dumps(Call(os.system, command(path)), protocol=0)


def builtins_exec(path: Path) -> bytes:
    return pickle.dumps(box({7: Call(exec, python(path))}), protocol=2)


def object_array(path: Path) -> bytes:
    return pickle.dumps(box({7: np.array([[Call(os.system, command(path))]], dtype=object)}))


def outer_object_array(path: Path) -> bytes:
    return pickle.dumps(np.array([Call(os.system, command(path))], dtype=object))


def torch_load(path: Path) -> bytes:
    """torch.load of a whole saved file inside the pickle, as in a storage's bytes."""
    saved = io.BytesIO()
    torch.save({"weight": Call(os.system, command(path))}, saved)
    return pickle.dumps(box({"keys": [7], "cam": Call(torch.storage._load_from_bytes, saved.getvalue())}))


def torch_load_old(path: Path) -> bytes:
    saved = io.BytesIO()
    torch.save({"weight": Call(os.system, command(path))}, saved, _use_new_zipfile_serialization=False)
    return pickle.dumps(box({"keys": [7], "cam": Call(torch.storage._load_from_bytes, saved.getvalue())}))


def torch_load_itself(path: Path) -> bytes:
    saved = path.with_suffix(".pth")
    torch.save(Call(os.system, command(path)), saved)

    class Load:
        def __reduce__(self) -> Any:
            return torch.load, (str(saved), None, None)

    return pickle.dumps(box({7: Load()}))


def dots_out_of_a_module(path: Path) -> bytes:
    """A name that walks out of its module, to os.system."""
    call = named("torch.serialization", "os.system") + text(command(path)) + b"\x85R"
    return b"\x80\x04" + call + b"."


def dots_out_of_an_allowed_module(path: Path) -> bytes:
    call = named("torch._utils", "sys.modules.get") + text("os") + b"\x85R0"
    run = named("torch._utils", "torch.os.system") + text(command(path)) + b"\x85R"
    return b"\x80\x04" + call + run + b"."


def dots_in_a_global(path: Path) -> bytes:
    return b"\x80\x04ctorch.serialization\nos.system\n" + text(command(path)) + b"\x85R."


def getattr_chain(path: Path) -> bytes:
    """getattr(getattr(builtins, "__import__")("os"), "system")(command)."""
    imported = named("builtins", "__import__") + text("os") + b"\x85R"
    function = named("builtins", "getattr") + imported + text("system") + b"\x86R"
    return b"\x80\x04" + function + text(command(path)) + b"\x85R."


def nested_reduce(path: Path) -> bytes:
    """An allowed function whose argument is the result of a forbidden call."""
    inner = named("posix" if os.name == "posix" else "nt", "system") + text(command(path)) + b"\x85R"
    shape = b"K\x00\x85C\x01b"  # (0,), b"b"
    return (
        b"\x80\x04"
        + named("numpy._core.multiarray" if np.__version__ >= "2" else "numpy.core.multiarray", "_reconstruct")
        + b"("
        + inner
        + b"0"
        + named("numpy", "ndarray")
        + shape
        + b"tR."
    )


def old_instruction(path: Path) -> bytes:
    """INST, which finds and calls in one."""
    return b"(S'" + command(path).encode() + b"'\nios\nsystem\n."


def object_instruction(path: Path) -> bytes:
    return b"\x80\x02(cos\nsystem\nX" + struct.pack("<I", len(command(path))) + command(path).encode() + b"o."


def new_object(path: Path) -> bytes:
    """NEWOBJ of a class whose making runs something."""
    arguments = b"(" + text("sh") + text("-c") + text(command(path)) + b"l"
    return b"\x80\x04" + named("subprocess", "Popen") + arguments + b"\x85R."


LIVE = (
    in_a_map,
    as_a_key,
    before_good_maps,
    bare,
    protocol_0,
    builtins_exec,
    object_array,
    outer_object_array,
    torch_load,
    torch_load_old,
    torch_load_itself,
    dots_out_of_a_module,
    dots_out_of_an_allowed_module,
    dots_in_a_global,
    getattr_chain,
    nested_reduce,
    old_instruction,
    object_instruction,
    new_object,
)


def appears(path: Path) -> bool:
    """Popen does not wait."""
    for _ in range(100):
        if path.exists():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE")
@pytest.mark.parametrize("make", [*LIVE], ids=lambda make: make.__name__)
def test_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], bytes]) -> None:
    mark = tmp_path / "ran"
    data = make(mark)
    file = write_npy(tmp_path / "a.npy", data)
    with monkeypatch.context() as patch:
        for module, name in ((os, "system"), (builtins, "eval"), (builtins, "exec"), (torch, "load")):
            patch.setattr(module, name, lambda *_, **__: mark.write_text("called"))
        with pytest.raises(FormatError, match=r"a\.npy: ") as caught:
            read_cams(file)
    with pytest.raises(FormatError):
        read_cams(file)
    assert not mark.exists()
    assert "nothing in it was run" in str(caught.value)
    assert "\n" not in str(caught.value)
    # The pickle is a live one, for torch.load as it once was.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with suppress(Exception):
        pickle.loads(data)
    assert appears(mark)


def test_the_message_says_what_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=rf"a\.npy: asks for {os.name}\.system, expected a dict of plain arrays"):
        read_cams(write_npy(tmp_path / "a.npy", in_a_map(tmp_path / "x")))
    hidden = b"\x80\x04" + named("os\x1b[2J\n", "a" * 200) + b"."
    with pytest.raises(FormatError, match=r"asks for os\\x1b\[2J\\n\.a+, expected") as caught:
        read_cams(write_npy(tmp_path / "a.npy", hidden))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


RECONSTRUCT = named("numpy.core.multiarray", "_reconstruct")
ARRAY = RECONSTRUCT + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
DTYPE = named("numpy", "dtype") + text("f4") + b"\x89\x88\x87R"
FINISHED = DTYPE + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def state(shape: bytes, dtype: bytes, data: bytes, fortran: bytes = b"\x89") -> bytes:
    return ARRAY + b"(K\x01" + shape + dtype + fortran + data + b"tb"


EIGHT_BYTES = b"C\x08" + bytes(8)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (state(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", FINISHED, EIGHT_BYTES), "claims an array of"),
        (state(b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86", FINISHED, EIGHT_BYTES), "an array of no valid shape"),
        (state(b"]", FINISHED, EIGHT_BYTES), "an array of no valid shape"),
        (state(b"K\x02\x85", FINISHED, text("abcdefgh")), "an array without bytes"),
        (state(b"K\x02\x85", text("f4"), EIGHT_BYTES), "an array without data type"),
        (state(b"K\x01\x85", FINISHED.replace(text("f4"), text("O8")), b"](K\x01e"), "an array of objects"),
        (state(b"K\x01\x85", FINISHED.replace(text("f4"), text("M8")), EIGHT_BYTES), "other than a number"),
        (state(b"K\x01\x85", FINISHED.replace(text("f4"), text("V8")), EIGHT_BYTES), "other than a number"),
        (FINISHED.replace(b"NNN", b"N\x8c\x01a\x85}"), "a structured data type"),
        (FINISHED.replace(text("<"), text("!")), "unknown byte order"),
        (RECONSTRUCT + named("numpy", "dtype") + b"K\x00\x85C\x01b\x87R", "something other than an array"),
        (named("numpy", "ndarray") + b"K\x05\x85R", "uses a type as a function"),
        (named("numpy", "ndarray") + b"K\x05\x85\x81", "instruction NEWOBJ"),
        (named("numpy", "dtype") + b"}" + text("run") + b"Nsb", "sets the state of a Function"),
        (named("numpy", "dtype") + b"N}" + text("run") + b"Ns\x86b", "sets the state of a Function"),
        (named("numpy", "ndarray") + b"}b", "sets the state of a type"),
        (b"}}" + text("a") + b"K\x01sb", "sets the state of a dict"),
        (named("_codecs", "encode") + text("ab") + text("idna") + b"\x86R", "encodes text"),
        (named("_codecs", "decode"), "asks for _codecs.decode"),
        (named("numpy.core", "multiarray._reconstruct"), "asks for numpy.core.multiarray._reconstruct"),
        (named("numpy", "core.multiarray._reconstruct"), "asks for"),
        (named("numpy", "ndarray.__class__"), "asks for numpy.ndarray.__class__"),
        (named("numpy", "load"), "asks for numpy.load"),
        (named("numpy", "fromfile"), "asks for numpy.fromfile"),
        (named("collections", "OrderedDict.fromkeys"), "asks for"),
        (named("torch", "load"), "asks for torch.load"),
        (named("torch", "FloatStorage"), "asks for torch.FloatStorage"),
        (named("torch.storage", "_load_from_bytes") + b"C\x03abc\x85R", "without the bytes of one"),
        (b"K\x01K\x02\x93", "uses a int as a str"),
        (text("id") + b"Q", "instruction BINPERSID"),
        (b"Pid\n", "instruction PERSID"),
        (b"\x82\x01", "instruction EXT1"),
        (b"\x97", "instruction NEXT_BUFFER"),
        (b"}K\x01\x85K\x02s", "a tuple as a key"),
        (b"}]K\x02s", "a list as a key"),
        (b"K\x01K\x02a", "uses a int as a list"),
    ],
)
def test_tricks_with_the_allowed_names(tmp_path: Path, pickled: bytes, words: str) -> None:
    file = write_npy(tmp_path / "a.npy", b"\x80\x04" + pickled + b".")
    with pytest.raises(FormatError, match=words):
        read_cams(file)


def test_the_hand_made_array_is_right_without_the_tricks(tmp_path: Path) -> None:
    one = state(b"K\x01K\x02\x86", FINISHED, EIGHT_BYTES)
    inner = b"}K\x07" + one + b"s"
    outer = state(b")", FINISHED.replace(text("f4"), text("O8")), b"]" + inner + b"a")
    file = read_cams(write_npy(tmp_path / "a.npy", b"\x80\x04" + outer + b"."))
    assert (file.classes.tolist(), file.cams.tolist()) == ([8], [[[0.0, 0.0]]])


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, numbers: int = 4) -> bytes:
    storage = torch.zeros(numbers).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    made = Call(torch._utils._rebuild_tensor_v2, typed, offset, shape, strides, False, {})
    return pickle.dumps(box({"keys": [7], "cam": made}))


@pytest.mark.parametrize(
    "pickled",
    [
        tensor((1, 1 << 20, 1 << 20), (0, 0, 0)),
        tensor((1, 2, 2), (4, 2, 2)),
        tensor((1, 2, 2), (4, 2, 1), offset=1),
        tensor((1, 2, 2), (4, -2, -1), offset=3),
        tensor((1, 2, 2), (4, 2, 1), offset=-1),
        tensor((1, 2, 2), (4, 2)),
        tensor((1, 1, 1, 2, 2), (4, 4, 4, 2, 1)),
        # A storage that claims more than it has: "numel" in the id, and before the data.
        tensor((1, 2, 2), (4, 2, 1)).replace(b"cpuq\x03K\x04", b"cpuq\x03K\x63"),
        tensor((1, 2, 2), (4, 2, 1)).replace(b"\x04" + bytes(23), b"\x04" + bytes(6) + b"\x70" + bytes(16)),
    ],
)
def test_tensors_that_claim_more_than_there_is(tmp_path: Path, pickled: bytes) -> None:
    path = write_npy(tmp_path / "a.npy", pickled)
    with pytest.raises(FormatError, match=r"tensor of|shape"):
        read_cams(path)
    assert read_cams(write_npy(path, tensor((1, 2, 2), (4, 2, 1)))).cams.shape == (1, 2, 2)


@pytest.mark.parametrize(
    "pickled",
    [
        b"Nr\xff\xff\xff\xff",  # LONG_BINPUT: pickle makes a table of four thousand million entries
        b"\x96\x00\x00\x00\x00\x10\x00\x00\x00",  # BYTEARRAY8 of 64 GiB
        b"\x8e\x00\x00\x00\x00\x10\x00\x00\x00",  # BINBYTES8
        b"B\xff\xff\xff\x7f",  # BINBYTES of 2 GiB
        b"\x95\x00\x00\x00\x00\x10\x00\x00\x00",  # FRAME
        b"\x8b\xff\xff\xff\x7f",  # LONG4
        b"}" * 200_000,
        b"(" * 200_000,
    ],
)
def test_small_files_stay_small(tmp_path: Path, pickled: bytes) -> None:
    file = write_npy(tmp_path / "a.npy", b"\x80\x04" + pickled + b".")
    tracemalloc.start()
    with pytest.raises(FormatError):
        read_cams(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6


def test_endless_instructions_are_cut_off(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="too many instructions"):
        read_cams(write_npy(tmp_path / "a.npy", b"\x80\x04" + b"}" * 200_000 + b"."))


def test_tuples_in_tuples_are_not_hashed(tmp_path: Path) -> None:
    deep = b"}(K\x00\x85\x94"
    for index in range(60):  # each holds the one before twice, so that hashing takes 2^60 steps
        deep += b"h" + bytes([index]) + b"h" + bytes([index]) + b"\x86\x94"
    with pytest.raises(FormatError, match="a tuple as a key"):
        read_cams(write_npy(tmp_path / "a.npy", b"\x80\x04" + deep + b"tNs."))


def test_one_array_under_many_names_is_not_copied_for_each(tmp_path: Path) -> None:
    row = np.zeros((500, 500), np.float32)
    with pytest.raises(FormatError, match="200 CAMs that share their values"):
        read_cams(save(tmp_path / "a.npy", dict.fromkeys(range(1, 201), row)))


def test_one_text_is_not_made_bytes_over_and_over(tmp_path: Path) -> None:
    long = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    first = named("_codecs", "encode") + b"\x94" + long + text("latin1") + b"\x86\x94R"
    again = b"h\x00h\x01R" * 100  # 1 MB would become 100
    file = write_npy(tmp_path / "a.npy", b"\x80\x04" + first + again + b".")
    tracemalloc.start()
    with pytest.raises(FormatError, match="the same bytes over and over"):
        read_cams(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6


def test_a_file_cut_short_is_called_damaged(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.npy", {7: ROWS[0], 14: ROWS[1]}).read_bytes()
    (tmp_path / "b.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"b\.npy: damaged") as caught:
        read_cams(tmp_path / "b.npy")
    assert caught.value.hint == "write it again, or remove it"


def test_damaged_files_never_raise_anything_else(tmp_path: Path) -> None:
    content = {"keys": torch.tensor([7, 14]), "cam": torch.rand(2, 3, 4), "high_res": ROWS[:, :6, :8]}
    rng = np.random.default_rng(0)
    failures = []
    for protocol in (2, 4, 5):
        data = np.frombuffer(save(tmp_path / "a.npy", content, protocol).read_bytes(), np.uint8)
        cut = [data[:size].tobytes() for size in (7, 20, 128, 200, len(data) // 2, len(data) - 1)]
        for _ in range(200):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            cut.append(damaged.tobytes())
        for bad in cut:
            (tmp_path / "b.npy").write_bytes(bad)
            try:
                read_cams(tmp_path / "b.npy")
            except FormatError as error:
                failures.append(str(error))
    assert len(failures) > 300
    assert all("b.npy: " in failure for failure in failures)
    assert all(len(failure) < 600 for failure in failures)


def test_functions_get_their_arguments_and_objects_their_state() -> None:
    class Sum(Built):
        total = 0

        def build(self, state: Any) -> None:
            self.total += sum(state)

    names = {("here", "Sum"): Function(Sum), ("here", "seven"): 7}
    pickled = b"\x80\x04" + named("here", "Sum") + b")R\x94(K\x01K\x02tb" + named("here", "seven") + b"\x86."
    stream = io.BytesIO(pickled + b"rest")
    made, seven = read_pickle(stream, names, Budget(1000))
    assert (made.total, seven, stream.read()) == (3, 7, b"rest")
    assert read_pickle(io.BytesIO(b"\x80\x02X\x02\0\0\0idQ."), {}, Budget(1000), len) == 2


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back(protocol: int) -> None:
    value = {"a": [1, -2, 70000, 1 << 40, 2.5, None, True, False], 3: ("text", b"bytes", (), (1,), (1, 2, 3, 4))}
    names = {("_codecs", "encode"): Function(lambda words, encoding: words.encode(encoding))}
    assert read_pickle(io.BytesIO(pickle.dumps(value, protocol=protocol)), names, Budget(1000)) == value


def test_case_maps_that_take_minutes(tmp_path: Path) -> None:
    """Whole numbers that all have the same hash, in a dict inside each tensor: refused at once."""
    hooks = {number * ((1 << 61) - 1): None for number in range(2000)}
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    made = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1, 2, 2), (4, 2, 1), False, hooks)
    with pytest.raises(FormatError, match="has a key of more than 32 bits"):
        read_cams(save(tmp_path / "a.npy", {"keys": [7], "cam": made}))
    with pytest.raises(FormatError, match="has a dict of over 1000 keys"):
        read_cams(save(tmp_path / "a.npy", dict.fromkeys(range(1001), 0)))


def test_the_pickles_inside_a_file_share_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = ({"keys": [7] * count, "cam": [torch.zeros(1) for _ in range(count)]} for count in (3, 3000))
    with pytest.raises(FormatError, match="cam: found a list"):
        read_cams(save(tmp_path / "a.npy", few))
    assert sum(1 for _ in pickletools.genops(pickle.dumps(box(many), protocol=3))) < 100_000
    with pytest.raises(FormatError, match="too many instructions"):
        read_cams(save(tmp_path / "a.npy", many))
