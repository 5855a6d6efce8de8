"""What people say of a run: tags, a note, and whether it is archived.

It lies in a file of its own next to run.json: that one belongs to the process that trains, this one to people who have
something to say, also while the run is in progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.writer import write_atomically
from rattle.text import one_line

_MOST_TAGS = 64
_LONGEST_TAG = 64  # characters
_LONGEST_NOTE = 10_000


class Annotations(msgspec.Struct, frozen=True):
    """The columns of `runs` that people write."""

    tags: tuple[str, ...] = ()
    note: str = ""
    archived: bool = False

    def with_tags(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Annotations:
        """Return them with some tags more and some fewer; raises AnalyticsError for what is no tag."""
        gone = set(remove)
        tags = tuple(dict.fromkeys(tag for tag in (*self.tags, *map(_checked, add)) if tag not in gone))
        if len(tags) > _MOST_TAGS:
            raise AnalyticsError(f"a run has at most {_MOST_TAGS} tags: remove some with --remove")
        return msgspec.structs.replace(self, tags=tags)

    def with_note(self, note: str) -> Annotations:
        """Return them with another note; raises AnalyticsError for one that is too long."""
        if len(note) > _LONGEST_NOTE:
            raise AnalyticsError(f"a note has at most {_LONGEST_NOTE:,} characters, and this one has {len(note):,}")
        return msgspec.structs.replace(self, note=note)

    def with_archived(self, archived: bool) -> Annotations:
        """Return them archived, or no longer so."""
        return msgspec.structs.replace(self, archived=archived)


def _checked(tag: str) -> str:
    if not tag or len(tag) > _LONGEST_TAG or not tag.isprintable() or "," in tag or " " in tag:
        raise AnalyticsError(
            f"'{one_line(tag, 80)}' cannot be a tag: tags have at most {_LONGEST_TAG} characters, without blanks and "
            "commas"
        )
    return tag


def read_annotations(run: RunDirectory) -> Annotations:
    """Return what people say of a run, nothing where nobody has said anything; raises AnalyticsError."""
    try:
        with reading(run.annotations):
            return msgspec.json.decode(run.annotations.read_bytes(), type=Annotations)
    except AnalyticsError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return Annotations()
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AnalyticsError(f"{run.annotations} is damaged: delete it to begin again") from None


def annotate(run: RunDirectory, change: Callable[[Annotations], Annotations]) -> Annotations:
    """Change what people say of a run, and return it; others may do so at the same time. Raises AnalyticsError."""
    with run.annotating():
        changed = change(read_annotations(run))
        write_atomically(run.annotations, msgspec.json.encode(changed) + b"\n")
    return changed


def annotations_of(run: RunDirectory) -> Annotations:
    """Return what people say of a run; nothing if that cannot be read, because a list works without it."""
    try:
        return read_annotations(run)
    except AnalyticsError:
        return Annotations()
