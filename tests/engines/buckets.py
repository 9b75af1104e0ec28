"""A bucket of its own for each test, in engines that a session starts once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataplaned.config import CredentialSource, ObjectStoreConfig


@dataclass(frozen=True)
class EngineBucket:
    """An empty bucket.

    Attributes:
        url: As in a configuration.
        endpoint: Where the engine is.
        secrets: What the engine wants to know, by the names of options.
        options: Further options.
    """

    url: str
    endpoint: str
    secrets: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)

    @property
    def client_options(self) -> dict[str, str]:
        """What leads obstore there without a daemon."""
        region = {"region": "us-east-1"} if self.url.startswith("s3") else {}
        return {"endpoint": self.endpoint, **region, **self.options, **self.secrets}

    def config(self, directory: Path, **settings: Any) -> ObjectStoreConfig:
        """Give a configuration whose spool and secrets are in a directory."""
        return ObjectStoreConfig(
            **{
                "url": self.url,
                "endpoint": self.endpoint,
                "region": "us-east-1" if self.url.startswith("s3") else None,
                "options": self.options,
                "credentials": self._write_secrets(directory),
                "spool": str(directory / "spool"),
                **settings,
            }
        )

    def toml(self, directory: Path, backend_id: str, **settings: Any) -> str:
        """Give a backend's table for a daemon."""
        config = self.config(directory)
        lines = [
            f"[backend.{backend_id}]",
            'type = "objectstore"',
            f'url = "{config.url}"',
            f'endpoint = "{settings.pop("endpoint", config.endpoint)}"',
            f'spool = "{directory / "spool"}"',
            *([f'region = "{config.region}"'] if config.region else []),
            *(f"{key} = {value}" for key, value in settings.items()),
            f"[backend.{backend_id}.options]",
            *(f'{key} = "{value}"' for key, value in self.options.items()),
            f"[backend.{backend_id}.credentials]",
            *(
                f'{key} = {{ file = "{source.file}" }}'
                for key, source in config.credentials.items()
            ),
        ]
        return "\n".join(lines) + "\n"

    def _write_secrets(self, directory: Path) -> dict[str, CredentialSource]:
        sources = {}
        for name, value in self.secrets.items():
            path = directory / f"secret-{name}"
            path.write_text(value + "\n")
            sources[name] = CredentialSource(file=str(path))
        return sources
