"""Where everything lives: settings tell a laptop from production, never branches (ADR 37)."""

import getpass
import os
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.access.secret import WorkspaceSecret, open_secret
from infra.addresses import noted_addresses
from infra.engine_options.building import COMPUTE_CAPABILITY, BuildOptions, HardwareCompatibility
from infra.errors import BadInput
from infra.run_scope import once
from infra.stores import ObjectStore, open_store

if TYPE_CHECKING:
    from infra.access.directory import Directory
    from infra.access.oidc import Provider
    from infra.keys.private import SigningKey
    from infra.keys.pseudonyms import PseudonymKeys
    from infra.keys.public import TrustedKeys
    from infra.keys.ring import KeyRing
    from infra.registry.registry import Registry
    from infra.releases import Release
    from infra.weights.folder import WeightFolder

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_LOGGING_LEVEL": "INFO",  # of what runs report to the server
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",
    "PREFECT_CLI_PROMPT": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""No dependency reports home, asks a model hub, unpickles, or talks while all is well."""


PRIVATE = 0o077
"""The mask of new files: 0600 in folders of 0700.

What users sent is nobody else's business on a shared machine.
"""

NONE, LOCAL = "none", "local"
"""Words of the cluster setting: this process, or processes of this machine.

Any other value is a scheduler's address.
"""


def _user() -> str:
    """Return the user's name; a container may run under a number that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


class Settings(BaseSettings):
    """`REQUANT_*` environment variables; the defaults embed everything in the workspace folder."""

    model_config = SettingsConfigDict(env_prefix="REQUANT_", extra="ignore", frozen=True)

    workspace: Path = Path(".requant")
    store_url: str | None = None  # s3://bucket/prefix, file:///path
    s3_endpoint_url: str | None = None
    s3_region: str | None = None
    mlflow_tracking_uri: str | None = None  # a server's address, or a database
    mlflow_artifact_root: str | None = (
        None  # where runs of a database keep files; a server knows by itself
    )
    prefect_api_url: str | None = None
    # A file, env:NAME or awskms:KEY; and public keys (files or folders, as in PATH), which alone
    # count then: a host that only serves needs no private key.
    signing_key: str | None = None
    trusted_keys: str | None = None
    rollback_depth: int = Field(3, ge=1)  # champions before the present one that `gc` keeps
    keep_days: int = Field(30, ge=0)  # what `gc` keeps for its youth
    ledger_lock_days: int | None = Field(None, ge=1)  # S3 Object Lock of ledger entries
    access_secret: Path | None = None  # where workers on other hosts are to know who ordered a run
    pseudonym_key: Path | None = None  # where several hosts bring traffic in
    actor: str = Field(default_factory=_user)
    token: SecretStr | None = None  # who acts, where the store has users: docs/access.md
    # People may sign in at an OpenID Connect provider, too: docs/access.md.
    oidc_issuer: str | None = None
    oidc_client_id: str = "requant"
    oidc_client_secret: SecretStr | None = None
    oidc_claim: str = "sub"
    trusted_metrics: str = ""  # packages and folders that metric functions may be imported from
    unisolated_programs: bool = False  # run what a model wrote where nothing isolates it
    cluster: str | None = (
        None  # none, local, tcp://HOST:PORT or tls://HOST:PORT of a Dask scheduler
    )
    prefect_port: int = 4200
    mlflow_port: int = 5000
    console_port: int = 8400
    console_url: str | None = None  # where people reach it, where no `requant up` notes that
    # Of runs that a worker starts to maintain a model: a gateway on the same host goes first.
    run_nice: int = Field(10, ge=0, le=19)
    gateway_port: int = 8500
    gateway_grpc_port: int | None = Field(None, ge=0, le=65535)  # None: the gateway speaks no gRPC
    gateway_models: str = ""  # those that the gateway serves, separated by commas; empty: all
    gateway_capture: float = Field(0.1, ge=0, le=1)  # of served requests, what becomes traffic
    gateway_workers: int = Field(1, ge=1, le=64)  # processes of `requant serve`, behind one port
    gateway_keep_s: float = Field(3600, ge=0)  # that a replaced release stays loaded
    tensorrt_version_compatible: bool = False
    tensorrt_hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    tensorrt_optimization_level: int | None = Field(None, ge=0, le=5)
    tensorrt_workspace_mib: int | None = Field(None, ge=1)
    tensorrt_max_aux_streams: int | None = Field(None, ge=0)
    tensorrt_timing_cache: bool = True  # kept in the object store
    # The device that TensorRT-RTX builds for where none is visible.
    tensorrt_rtx_capability: str = Field(COMPUTE_CAPABILITY, pattern=r"^SM\d+$")
    # From which size on the weights of a graph lie in files beside it.
    weights_beside_mib: float = Field(256, ge=0)
    observe_on_cuda: bool = True  # where a target of the model runs on the visible device
    evidently_port: int = 8000

    @property
    def root(self) -> Path:
        """The workspace as an absolute path."""
        return self.workspace.expanduser().resolve()

    @property
    def store_address(self) -> str:
        """The object store: the given one, or a folder of the workspace."""
        return self.store_url or (self.root / "store").as_uri()

    @property
    def mlflow_uri(self) -> str:
        """MLflow: the given server or database, or SQLite in the workspace."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def key_path(self) -> Path:
        """The file of the key that signs releases and ledger entries."""
        if self.signing_key is None or self.signing_key.startswith(("env:", "awskms:")):
            return self.root / "keys" / "signing.pem"
        return Path(self.signing_key)

    def keys(self) -> "KeyRing":
        """Return where the keys are that sign and verify."""
        from infra.keys.ring import KeyRing  # with its cryptography, which not every command needs

        return KeyRing(self.root / "keys", self.signing_key, self.trusted_keys)

    def store(self) -> ObjectStore:
        """Open the object store."""
        return _opened(self.store_address, self.s3_endpoint_url, self.s3_region)

    def weights(self) -> "WeightFolder":
        """Open the folder of large weights, which is filled from the object store."""
        return _weights(
            self.root / "cache" / "weights",
            self.store_address,
            self.s3_endpoint_url,
            self.s3_region,
        )

    def tensorrt_options(self) -> BuildOptions:
        """Return how `tensorrt` engines are built."""
        workspace = self.tensorrt_workspace_mib
        return BuildOptions(
            self.tensorrt_version_compatible,
            self.tensorrt_hardware_compatibility,
            self.tensorrt_optimization_level,
            None if workspace is None else workspace * 2**20,
            self.tensorrt_max_aux_streams,
        )

    @property
    def mlflow_server(self) -> str | None:
        """The address of an MLflow server that runs elsewhere.

        It is None for a database, given or embedded.
        """
        address = self.mlflow_tracking_uri
        return address if address and address.startswith(("http://", "https://")) else None

    @property
    def artifact_root(self) -> str:
        """Where runs keep files when MLflow is a database.

        The place is as given, beside an S3 store, or in the workspace.
        """
        if self.mlflow_artifact_root:
            return self.mlflow_artifact_root
        if self.store_address.startswith("s3://"):
            return f"{self.store_address.rstrip('/')}/mlflow"
        return (self.root / "artifacts").as_uri()

    def secret(self) -> WorkspaceSecret:
        """Return the workspace's secret, made the first time."""
        return open_secret(self.access_secret or self.root / "keys" / "access.secret")

    def pseudonym_keys(self) -> "PseudonymKeys":
        """Return the keys by which names in stored traffic become pseudonyms."""
        from infra.keys.pseudonyms import PseudonymKeys

        return PseudonymKeys(self.pseudonym_key or self.root / "keys" / "pseudonyms.key")

    def directory(self) -> "Directory":
        """Return who the users are, and what they may; one a process."""
        return _directory(self)

    def provider(self) -> "Provider | None":
        """Return where people may sign in beside; raises `BadInput`."""
        from infra.access.oidc import Provider  # with Starlette, as what is served

        if self.oidc_issuer is None:
            return None
        secret = self.oidc_client_secret.get_secret_value() if self.oidc_client_secret else ""
        return Provider(self.oidc_issuer, self.oidc_client_id, secret, self.oidc_claim)

    def console_page(self, *parts: str) -> str | None:
        """Return the address of a page of the console, for links from elsewhere.

        It is None where the settings name none and `requant up` does not run in the workspace.
        """
        console = self.console_url or noted_addresses(self.root).get("console")
        if not console:
            return None
        return "/".join((console.rstrip("/"), *(quote(part, safe="") for part in parts)))

    def registry(self) -> "Registry":
        """Open the MLflow registry; within a run the same one, which keeps its client."""
        # With httpx, which a command that only reads never needs.
        from infra.registry.registry import Registry

        address, root = self.mlflow_uri, None if self.mlflow_server else self.artifact_root
        return once(
            "registry", address, root, open_it=lambda: Registry(address, artifact_root=root)
        )

    def travelling(self) -> dict[str, str]:
        """Return the settings as environment variables for a process elsewhere.

        That process spreads nothing further, and credentials stay here.
        """
        values = self.model_dump(mode="json", exclude_none=True, exclude=_CREDENTIALS)
        places = {"workspace": str(self.root), "store_url": self.store_address, "cluster": NONE}
        return QUIET | {
            f"REQUANT_{name.upper()}": str(value) for name, value in (values | places).items()
        }

    def signer(self) -> "SigningKey":
        """Return the signing key; a workspace that never signed makes its own the first time.

        Raises:
            BadInput: The key is missing though something was signed, or it is damaged.
            Unavailable: The store or the key management service does not answer.
        """
        return self.keys().signer(lambda: any(True for _ in self.store().list("releases/")))

    def verifier(self) -> "TrustedKeys":
        """Return the public keys whose signatures count; raises `BadInput`."""
        return self.keys().verifier()

    def release(self, model: str, digest: str) -> "Release":
        """Read a stored release, its manifest's signature verified.

        It raises `NotFound` and `Tampered`.
        """
        from infra.releases import read_release

        store = self.store()
        return once(
            "release",
            store.url,
            model,
            digest,
            open_it=lambda: read_release(store, model, digest, self.verifier()),
        )


_CREDENTIALS = {"token", "oidc_client_secret"}
"""Settings that stay in the process that they were given to."""


@lru_cache(maxsize=8)
def _directory(chosen: Settings) -> "Directory":
    from infra.access.access_log import AccessLog  # with its cryptography, as `keys`
    from infra.access.directory import Directory
    from infra.chain import Chain
    from infra.keys.seal import Seal
    from infra.stores import layout
    from infra.stores.prefix_cache import PrefixCache

    store, prefix, days = chosen.store(), layout.access_log(), chosen.ledger_lock_days
    kept = PrefixCache(chosen.root / "verified" / "access.log", f"{store.url} {prefix}")
    chain = Chain(
        store,
        prefix,
        keep=True,
        cache=kept,
        seal=Seal(chosen.signer, chosen.verifier),
        retain=None if days is None else timedelta(days=days),
    )
    return Directory(AccessLog(chain, chosen.root / "keys" / "access.known"))


@lru_cache(maxsize=8)
def _opened(address: str, endpoint_url: str | None, region: str | None) -> ObjectStore:
    """Open a store once: an S3 client takes a fifth of a second to make."""
    return open_store(address, endpoint_url=endpoint_url, region=region)


@lru_cache(maxsize=8)
def _weights(
    folder: Path, address: str, endpoint_url: str | None, region: str | None
) -> "WeightFolder":
    from infra.weights.folder import WeightFolder  # brings onnx, which settings need not

    return WeightFolder(folder, _opened(address, endpoint_url, region))


def read_settings() -> Settings:
    """Read the settings of this process's environment.

    Raises:
        BadInput: A variable is wrong, which it names.
    """
    try:
        return Settings()
    except ValidationError as exc:
        wrong = "; ".join(
            f"REQUANT_{str(e['loc'][0]).upper()} is {e['input']!r}: {e['msg']}"
            for e in exc.errors()
        )
        raise BadInput(f"settings: {wrong}") from exc


class _ReadOnce:
    """Reads this process's settings once, until it is told to forget them.

    A reading that another thread began before `cache_clear` is forgotten too: `lru_cache` would
    keep it, and the next request would be answered from another workspace.
    """

    def __init__(self) -> None:
        self._held: Settings | None = None
        self._reading = Lock()

    def __call__(self) -> Settings:
        held = self._held
        if held is None:
            with self._reading:
                held = self._held = self._held or read_settings()
        return held

    def cache_clear(self) -> None:
        """Forget them: the next call reads the environment again."""
        with self._reading:
            self._held = None


settings = _ReadOnce()
"""Call it for the settings of this process."""


def use_cluster(cluster: str | None) -> None:
    """Let this process, and the processes it starts, spread work there.

    None leaves it to environment and spec.
    """
    if cluster is not None:
        os.environ["REQUANT_CLUSTER"] = cluster
        settings.cache_clear()


def use_workspace(workspace: Path | None) -> Settings:
    """Point this process, and the processes it starts, at a workspace.

    Call it before Prefect or MLflow is imported.
    """
    if workspace is not None:
        os.environ["REQUANT_WORKSPACE"] = str(workspace)
    settings.cache_clear()
    chosen = settings()
    os.umask(PRIVATE)
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    os.environ["PREFECT_HOME"] = str(chosen.root / "prefect")
    os.environ["MLFLOW_TRACKING_URI"] = chosen.mlflow_uri
    os.environ["REQUANT_WORKSPACE"] = str(chosen.root)
    if chosen.prefect_api_url:
        os.environ["PREFECT_API_URL"] = chosen.prefect_api_url
    if chosen.s3_endpoint_url:  # MLflow's clients read and write artifacts themselves
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", chosen.s3_endpoint_url)
    return chosen
