"""Dockerfiles as stages, for tests: what runs in which stage, and on what it stands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PurePosixPath

from dockerfile_parse import DockerfileParser

_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    value: str
    stage: str

    def flag(self, name: str) -> str | None:
        """Return the value of `--name=value`; None where it is not given."""
        found = re.search(rf"--{name}=(\S+)", self.value)
        return found[1] if found else None

    @property
    def words(self) -> list[str]:
        """The value's words, options left out."""
        return [word for word in self.value.split() if not word.startswith("--")]


@dataclass(frozen=True, slots=True)
class Stage:
    """One `FROM` and what follows it."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file, with values for the arguments before its first `FROM`."""

    path: Path
    arguments: Mapping[str, str]
    stages: tuple[Stage, ...]

    @classmethod
    def read(cls, path: Path, **build_args: str) -> Dockerfile:
        """Read a file; `build_args` stand for `--build-arg`."""
        parser = DockerfileParser(fileobj=StringIO(path.read_text(encoding="utf-8")))
        arguments: dict[str, str] = {}
        stages: list[Stage] = []
        for entry in parser.structure:
            name, value = str(entry["instruction"]), str(entry["value"])
            if name == "FROM":
                base, _, stage = _substituted(value, arguments).split()
                stages.append(Stage(stage, base))
            elif stages and name != "COMMENT":
                stages[-1].instructions.append(Instruction(name, value, stages[-1].name))
            elif name == "ARG":
                argument, _, default = value.partition("=")
                arguments[argument] = build_args.get(argument, default)
        return cls(path, arguments, tuple(stages))

    @property
    def target(self) -> str:
        """The stage that is built where none is asked for: the last."""
        return self.stages[-1].name

    def chain(self, target: str | None = None) -> Iterator[Instruction]:
        """Yield what makes a stage, that of the stages it stands on first, copies from others left unfollowed."""
        by_name = {stage.name: stage for stage in self.stages}
        stage = by_name[target or self.target]
        if stage.base in by_name:
            yield from self.chain(stage.base)
        yield from stage.instructions

    def environment(self, target: str | None = None) -> dict[str, str]:
        """Return the variables a stage sets; `$PATH` stays as it is written."""
        pairs = [word for each in self.chain(target) if each.name == "ENV" for word in shlex.split(each.value)]
        return dict(pair.split("=", 1) for pair in pairs)

    def last(self, name: str, target: str | None = None) -> Instruction:
        """Return the last instruction of a name, the one in force."""
        return [each for each in self.chain(target) if each.name == name][-1]

    def entrypoint(self) -> list[str]:
        """Return the program of the image, in its exec form."""
        command: list[str] = json.loads(self.last("ENTRYPOINT").value)
        return command

    def apt_packages(self, target: str | None = None) -> set[str]:
        """Return what apt installs, as written: with a pin where there is one."""
        packages: set[str] = set()
        for each in self.chain(target):
            for command in each.value.split("&&") if each.name == "RUN" else ():
                words = shlex.split(command)
                if words[:2] == ["apt-get", "install"]:
                    packages |= {word for word in words[2:] if not word.startswith("-")}
        return packages

    def files(self, stage: str) -> Iterator[tuple[str, PurePosixPath]]:
        """Yield what a stage itself copies from the build context: a path or pattern there, and its place here."""
        for each in next(found for found in self.stages if found.name == stage).instructions:
            if each.name == "COPY" and each.flag("from") is None:
                *sources, place = each.words
                for source in sources:
                    is_folder = place.endswith("/") or len(sources) > 1
                    name = PurePosixPath(source).name if is_folder else ""
                    yield source, PurePosixPath(place) / name


def _substituted(text: str, arguments: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: arguments[found[1]], text)
