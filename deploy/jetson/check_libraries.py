#!/usr/bin/env python3
"""Check that every library which TensorRT and ONNX Runtime are linked to is in the image, or is mounted by the host.

The images run it in their build, where neither a GPU nor the host's driver is: nothing is loaded, ELF headers are read
(pyelftools). `ldd` cannot do it: images of NVIDIA's hold empty files where the host's libraries are mounted, and it
stops there. Libraries are looked for as ld.so does: DT_RPATH, LD_LIBRARY_PATH, DT_RUNPATH, /etc/ld.so.conf, system
folders.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

MOUNTED: Mapping[str, frozenset[str]] = {
    "nvidia-l4t-cuda": frozenset({
        "libcuda.so.1", "libnvcucompat.so", "libnvcudla.so", "libnvcuextend.so", "libnvidia-nvvm.so.4",
        "libnvidia-ptxjitcompiler.so.1",
    }),
    "nvidia-l4t-core": frozenset({
        "libnvcolorutil.so", "libnvdc.so", "libnvddk_2d_v2.so", "libnvddk_vic.so", "libnvdla_runtime.so",
        "libnvimp.so", "libnvisp_utils.so", "libnvos.so", "libnvphs.so", "libnvpva.so", "libnvpva_algorithms.so",
        "libnvpvaumd.so", "libnvrm_chip.so", "libnvrm_gpu.so", "libnvrm_host1x.so", "libnvrm_mem.so",
        "libnvrm_stream.so", "libnvrm_surface.so", "libnvrm_sync.so", "libnvsciipc.so", "libnvsocsys.so",
        "libnvtegrahv.so", "libnvvic.so",
    }),
    "nvidia-l4t-nvsci": frozenset({
        "libnvscibuf.so.1", "libnvscicommon.so.1", "libnvscievent.so", "libnvscistream.so.1", "libnvscisync.so.1",
    }),
    "nvidia-l4t-multimedia": frozenset({
        "libnveventlib.so", "libnvmedia.so", "libnvmedia2d.so", "libnvmedia_2d.so", "libnvmedia_dla.so",
        "libnvmedia_eglstream.so", "libnvmedia_iofa_sci.so", "libnvmedia_tensor.so", "libnvmedialdc.so",
        "libnvofsdk.so", "libnvtracebuf.so", "libnvtvmr.so", "libnvtvmr_2d.so",
    }),
    "nvidia-l4t-dla-compiler": frozenset({"libnvdla_compiler.so"}),
}  # fmt: skip
"""What the NVIDIA container runtime mounts from a Jetson's host, by its package; of multimedia, what is for computing.

Names by package: OE4T/meta-tegra, recipes-bsp/tegra-binaries, tegra-libraries-{cuda,core,nvsci,multimedia,dla-compiler}
for 36.5.0, and tegra-libraries-cuda_39.2.0.bb. That they are mounted: drivers.csv in the host's folder
/etc/nvidia-container-runtime/host-files-for-container.d, of the package nvidia-l4t-init for L4T 36 and 39, as
anduril/jetpack-nixos reads it; 285 lines on L4T 36.
"""

NOT_MOUNTED: Mapping[int, frozenset[str]] = {36: frozenset(), 39: MOUNTED["nvidia-l4t-dla-compiler"]}
"""What of it hosts of a release lack. L4T 39 has no DLA compiler: anduril/jetpack-nixos, sourceinfo/r39.2-debs.json."""

_PACKAGES = {"libcudart": "cuda-cudart", "libcudnn": "libcudnn9-cuda"}
"""Packages whose name is not that of their library."""


@dataclass(frozen=True)
class Library:
    """What the header of an ELF file says."""

    path: Path
    kind: tuple[str, int]
    """Machine and word length in bits: one of another kind is passed over by ld.so."""
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


class UnreadableError(Exception):
    """A file that ld.so would stop at: empty, cut off, no library."""


def read_library(path: Path) -> Library:
    """Read the header of an ELF file.

    Raises:
        UnreadableError: It is empty, cut off or none.
    """
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise UnreadableError(f"{path} is empty")
            elf = ELFFile(stream)
            dynamic = next((each for each in elf.iter_segments() if isinstance(each, DynamicSegment)), None)
            tags = list(dynamic.iter_tags()) if dynamic else []
            folders = {
                name: tuple(
                    folder
                    for tag in tags
                    if tag.entry.d_tag == f"DT_{name.upper()}"
                    for folder in getattr(tag, name).split(":")
                    if folder
                )
                for name in ("rpath", "runpath")
            }
            needed = tuple(str(getattr(tag, "needed", "")) for tag in tags if tag.entry.d_tag == "DT_NEEDED")
            return Library(path, (elf["e_machine"], elf.elfclass), needed, **folders)
    except (ELFError, OSError, UnicodeDecodeError, ValueError) as error:
        raise UnreadableError(f"{path} is no library: {error}") from error


def configured_folders(file: Path = Path("/etc/ld.so.conf")) -> Iterator[str]:
    """Yield the folders of ld.so's configuration, those of the files it includes where they stand."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.partition("#")[0].replace(",", " ").split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for included in _matches(str(file.parent / pattern)):
                    yield from configured_folders(included)
        else:
            yield from words


class Closure:
    """Everything that some libraries are linked to, and what theirs are."""

    def __init__(self, mounted: Iterable[str], folders: Iterable[str], library_path: Iterable[str]) -> None:
        """Look at nothing yet.

        Args:
            mounted: Names of libraries that the host brings.
            folders: Where libraries are looked for last: the system's.
            library_path: Those of LD_LIBRARY_PATH.
        """
        self._mounted = frozenset(mounted)
        self._folders = tuple(folders)
        self._library_path = tuple(library_path)
        self.found: dict[str, Path] = {}
        """Where a name was found."""
        self.from_host: dict[str, set[str]] = {}
        """Names that the host brings, with who needs them."""
        self.missing: dict[str, set[str]] = {}
        """Names that nobody brings, with who needs them."""
        self.faults: list[str] = []
        """What else is wrong, in sentences."""

    def add(self, path: Path) -> None:
        """Take in a library and all it needs."""
        try:
            self._follow(read_library(path), ())
        except UnreadableError as error:
            self.faults.append(f"{error}.")

    def _follow(self, library: Library, inherited: tuple[str, ...]) -> None:
        own = tuple(self._expanded(library.rpath, library)) if not library.runpath else ()
        rpath = (*own, *inherited)
        runpath = tuple(self._expanded(library.runpath, library))
        folders = (*(rpath if not runpath else ()), *self._library_path, *runpath, *self._folders)
        for name in library.needed:
            if name in self._mounted:
                self.from_host.setdefault(name, set()).add(library.path.name)
                continue
            if name in self.found:
                continue
            found = self._find(name, folders, library)
            if found:
                self.found[name] = found.path
                self._follow(found, rpath)

    def _find(self, name: str, folders: tuple[str, ...], by: Library) -> Library | None:
        for folder in dict.fromkeys(folders):
            path = Path(folder) / name
            if not path.exists():
                continue
            try:
                library = read_library(path)
            except UnreadableError as error:
                self.faults.append(f"{error}, and {by.path.name} needs it: ld.so ends its search there.")
                return None
            if library.kind == by.kind:
                return library
        self.missing.setdefault(name, set()).add(by.path.name)
        return None

    @staticmethod
    def _expanded(folders: Iterable[str], library: Library) -> Iterator[str]:
        origin = str(library.path.resolve().parent)
        for folder in folders:
            yield folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).absolute()
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def main(arguments: list[str] | None = None) -> int:
    """Run the check; return 0 where nothing is missing, 1 where something is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--l4t", type=int, choices=sorted(NOT_MOUNTED), help="release of the hosts; without it they mount nothing"
    )
    parser.add_argument(
        "--if-there", action="append", default=[], metavar="PATTERN", help="libraries that need not be there"
    )
    parser.add_argument("libraries", nargs="+", metavar="PATTERN", help="libraries that must be there")
    options = parser.parse_args(arguments)
    by_name = {name: package for package, names in MOUNTED.items() for name in names}
    mounted = by_name.keys() - NOT_MOUNTED[options.l4t] if options.l4t else ()
    machine = os.uname().machine
    system = [f"{top}/{machine}-linux-gnu" for top in ("/lib", "/usr/lib")]
    closure = Closure(
        mounted,
        folders=[*configured_folders(), *system, "/lib", "/usr/lib", "/lib64", "/usr/lib64"],
        library_path=filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")),
    )
    for pattern in (*options.libraries, *options.if_there):
        paths = _matches(pattern)
        if not paths and pattern in options.libraries:
            closure.faults.append(f"{pattern} is not here.")
        for path in paths:
            closure.add(path)
    for name, path in sorted(closure.found.items()):
        print(f"{name}: {path}")
    for name, needed_by in sorted(closure.from_host.items()):
        print(f"{name}: mounted by the host ({by_name[name]}), for {', '.join(sorted(needed_by))}")
    for name, needed_by in sorted(closure.missing.items()):
        stem = name.partition(".")[0]
        closure.faults.append(
            f"{name}, needed by {', '.join(sorted(needed_by))}, is not here, and the host does not mount it: install "
            f"its package (apt-cache search {_PACKAGES.get(stem, stem)})."
        )
    for fault in dict.fromkeys(closure.faults):
        print(f"check_libraries.py: {fault}", file=sys.stderr)
    return 1 if closure.faults else 0


if __name__ == "__main__":
    sys.exit(main())
