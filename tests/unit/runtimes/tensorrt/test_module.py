"""Finding TensorRT, in every state that its installation can be in."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from jetface.errors import BackendUnavailableError
from jetface.runtimes.tensorrt import RTX, TENSORRT, Toolkit, find_toolkit


def test_none_at_all_is_told_with_its_cure() -> None:
    """As it is here, where only TensorRT for RTX may be installed: that one is never taken unasked."""
    found: list[str] = []

    def nothing(name: str) -> ModuleType:
        found.append(name)
        raise ModuleNotFoundError(f"No module named '{name}'")

    with pytest.raises(BackendUnavailableError, match=r"it is not installed\. Install it: `apt install python3-libnv"):
        find_toolkit(import_module=nothing)
    assert found == [TENSORRT]
    with pytest.raises(BackendUnavailableError) as caught:
        find_toolkit(with_rtx=True, import_module=nothing)
    assert found[1:] == [TENSORRT, RTX, "tensorrt_rtx_bindings"]
    assert caught.value.details.keys() == {"what", "why", "cure"}


def test_the_one_for_rtx_is_taken_where_it_is_asked_for(toolkit: Toolkit) -> None:
    assert toolkit.name == RTX
    assert toolkit.version == toolkit.trt.__version__
    assert not toolkit.keeps_timings


class TestVersions:
    """What differs, version by version. Only the one for RTX is installed: the others are their names."""

    def flags_of(self, toolkit: Toolkit, **flags: int) -> int:
        return replace(
            toolkit, trt=SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**flags))
        ).network_flags()

    def test_a_network_is_strongly_typed_with_every_version(self, toolkit: Toolkit) -> None:
        assert self.flags_of(toolkit, EXPLICIT_BATCH=0, STRONGLY_TYPED=1) == 0b11, "10"
        assert self.flags_of(toolkit, STRONGLY_TYPED=1) == 0b10, "11"
        flag = toolkit.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        builder = toolkit.trt.Builder(toolkit.relay.logger)
        assert builder.create_network(toolkit.network_flags()).get_flag(flag)

    def test_half_precision_is_asked_for_where_a_version_says(self, toolkit: Toolkit) -> None:
        assert not toolkit.has_fast_fp16(SimpleNamespace(platform_has_fast_fp16=False))
        assert toolkit.has_fast_fp16(SimpleNamespace())

    def test_a_parser_adjusts_for_accelerators_where_it_can(self, toolkit: Toolkit) -> None:
        asked: list[str] = []
        parser = SimpleNamespace(set_flag=asked.append)
        for flags in (SimpleNamespace(), SimpleNamespace(ADJUST_FOR_DLA="adjust")):
            replace(toolkit, trt=SimpleNamespace(OnnxParserFlag=flags)).adjust_for_accelerator(parser)
        assert asked == ["adjust"]
