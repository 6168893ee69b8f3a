"""`Rows` reads a public data set from a file, a folder or the hub, all through `datasets`."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


class Rows:
    """One data set. A file is taken as the split `split` itself; a folder or a hub id must have a split of that name.

    `source`: a JSONL, parquet or CSV file; a folder of such files whose names tell their splits, or one written by
    `save_to_disk`; or a hub id. `config` is the hub's name of the subset, and of its folder in a copy of the hub's
    files. Raises ValueError, in one sentence, where the split cannot be read.
    """

    def __init__(self, set_name: str, source: str, split: str, config: str | None = None) -> None:
        self.set_name, self.source, self.split = set_name, source, split
        self._splits = self._load(config)
        if split not in self._splits:
            found = ", ".join(sorted(map(str, self._splits)))
            raise ValueError(f"{set_name} reads the split '{split}', but {source} has only: {found}.")

    def sample(self, count: int, columns: Iterable[str], split: str | None = None) -> list[dict[str, Any]]:
        """At most `count` rows in their own order, always the same ones: data sets are often sorted by subject, so the
        first rows would not stand for the rest. Empty if another `split` was asked for and there is none.
        """
        data = self._splits.get(split or self.split)
        if data is None:
            return []
        if missing := [c for c in columns if c not in data.column_names]:
            raise ValueError(
                f"{self.set_name} reads the column '{missing[0]}', but {self.source} has only: "
                f"{', '.join(data.column_names)}."
            )
        chosen = sorted(random.Random(0).sample(range(len(data)), min(count, len(data))))
        return [data[i] for i in chosen]

    def _load(self, config: str | None) -> Any:
        """A mapping of split names to `datasets.Dataset`."""
        path = Path(self.source).expanduser()
        if not path.exists() and (path.suffix in _BUILDERS or path.is_absolute() or self.source.startswith(("~", "."))):
            raise ValueError(f"{self.set_name}: there is no file or folder {self.source}; --source names it.")
        if path.is_file() and path.suffix not in _BUILDERS:
            raise ValueError(f"{self.set_name}: {self.source} is none of: {', '.join(_BUILDERS)}.")
        try:
            import datasets

            if path.is_file():
                loaded = datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train")
                return {self.split: loaded}
            if (path / "dataset_dict.json").exists():
                return datasets.load_from_disk(str(path))
            if path.is_dir():
                return datasets.load_dataset(str(path / config if config and (path / config).is_dir() else path))
            return datasets.load_dataset(self.source, config)
        except ModuleNotFoundError as error:
            raise ValueError(f"{self.set_name} needs the package {error.name}: pip install '.[bench]'.") from error
        except Exception as error:  # the hub, the network and each builder raise their own
            reason = next(iter(str(error).splitlines()), "").rstrip(".")
            raise ValueError(
                f"{self.set_name} cannot be loaded from {self.source} ({type(error).__name__}: {reason}); give a local "
                "copy (a folder, or a JSONL, parquet or CSV file) with --source."
            ) from error
