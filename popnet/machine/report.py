"""The errors of one file, each with its place; and the text of a file, or why it cannot be read."""

from pathlib import Path as FilePath
from typing import Final

from popnet.core.errors import InvalidMachineFile
from popnet.machine.document import Document, Mark
from popnet.machine.problems import Path, Problem, suggestion
from popnet.machine.schema import SectionType, checked

NOTHING_STARTED: Final = "Nothing was started; mend these lines and try again."


class Report:
    """The errors of one file, in the order of its lines."""

    def __init__(self, file: str, document: Document) -> None:
        self.file = file
        self.document = document
        self.lines: list[tuple[Mark, str]] = []
        for mark, problem in document.problems:
            self._line(mark, problem)

    def section(self, section: type[SectionType], path: Path) -> SectionType | None:
        """What the file holds at *path*, checked; None if the whole file holds nothing to check."""
        data = self.document.data
        if data is None:
            if not self.lines:
                self.problem((), "the file is empty")
            return None
        for key in path:
            if isinstance(data, list):
                data = data[int(key)]
            else:
                data = data.get(key) if isinstance(data, dict) else None
        result, problems = checked(section, data, path)
        for problem in problems:
            self.add(problem)
        return result

    def problem(self, path: Path, text: str) -> None:
        self.add(Problem(path, text))

    def add(self, problem: Problem) -> None:
        unreadable = any(problem.path == other.path != () for _, other in self.document.problems)
        if not unreadable or problem.at_key:
            self._line(self.document.mark(problem), problem)

    def foreign(self, path: Path, lines: str) -> None:
        """Errors of another file, which the value at *path* names; they carry their own places."""
        self.lines.append((self.document.mark(Problem(path, "")), lines))

    def error(self) -> InvalidMachineFile:
        self.lines.sort(key=lambda line: line[0])
        text = "\n".join(dict.fromkeys(text for _, text in self.lines))
        return InvalidMachineFile(text, hint=NOTHING_STARTED)

    def _line(self, mark: Mark, problem: Problem) -> None:
        key = ".".join(problem.path) + ": " if problem.path else ""
        self.lines.append((mark, f"{self.file}:{mark.line}:{mark.column}: {key}{problem.text}"))


def read_text(path: str, what: str) -> str:
    """The text of the file at *path*; raises InvalidMachineFile for what cannot be read."""
    try:
        raw = FilePath(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidMachineFile(f"{path}: cannot read this {what}: {reason}", hint=_near(path)) from None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        text = f"{path}:{line}:{column}: byte {raw[error.start]:#04x} is not UTF-8"
        raise InvalidMachineFile(text, hint=NOTHING_STARTED) from None


def _near(path: str) -> str:
    """What a user may have meant by a *path* that cannot be read."""
    directory = FilePath(path).parent
    files = {str(file) for pattern in ("*.yaml", "*.yml") for file in directory.glob(pattern)}
    guess = suggestion(path, sorted(files))
    return f"Nothing was started{guess}" if files else "Nothing was started."
