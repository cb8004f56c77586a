"""Builds without worker processes: a second each is too much for many tests."""

from __future__ import annotations


class Silent:
    """A view that remembers what was run."""

    def __init__(self):
        self.ran, self.done = [], []

    def planned(self, names):
        self.names = list(names)

    def started(self, name):
        self.ran.append(name)

    def finished(self, outcome, planned):
        self.done.append(outcome.name)


class InThisProcess:
    """In place of worker processes: a second each is too much for so many tests."""

    def __init__(self, count, function):
        self._function, self._task = function, None

    def __class_getitem__(cls, _):
        return cls

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def idle(self):
        return int(self._task is None)

    def start(self, task, *, fresh=False):
        self._task = task

    def finished(self):
        task, self._task = self._task, None
        yield task, self._function(task)
