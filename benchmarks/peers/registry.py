"""What a peer is: a package, its functions that state a rule of ours, its known differences."""

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from benchmarks.peers.compare import CapacityRule, Row, Subject, compare, compare_capacities
from benchmarks.peers.findings import Finding

INSTALL = "bash benchmarks/peers/install.sh"


@dataclass(frozen=True)
class Peer:
    """Another project.

    Attributes:
        package: its name as it is installed.
        module: what must be importable.
        subjects: (E, k) -> its functions that state a rule of ours.
        findings: functions that reproduce a difference each.
    """

    package: str
    module: str
    subjects: Callable[[int, int], Sequence[Subject | CapacityRule]]
    findings: Sequence[Callable[[], Finding]] = ()

    @property
    def version(self) -> str | None:
        """The version that is installed and can be imported, or None."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(self.module)
            return version(self.package)
        except (ImportError, PackageNotFoundError):
            return None

    @property
    def absence(self) -> str:
        """What is said where it is not installed."""
        return f"{self.package} is not installed and is left out; to install it: {INSTALL}"


def conformance(peer: Peer, layers: Sequence[Tensor], k: int) -> list[Row]:
    """Compare every function of an installed peer on the logits of each layer, (T, E)."""
    installed = peer.version
    if installed is None:
        raise ImportError(peer.absence)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about devices and kernels that are not here
        for subject in peer.subjects(layers[0].shape[-1], k):
            if isinstance(subject, CapacityRule):
                found.append(compare_capacities(peer.package, installed, subject))
            else:
                found.append(compare(peer.package, installed, subject, layers))
    return found


def differences(peer: Peer) -> list[Finding]:
    """Reproduce what an installed peer does differently; what cannot be run is not seen."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for reproduce in peer.findings:
            try:
                found.append(reproduce())
            except Exception as error:  # another version may have another interface
                name = reproduce.__name__.replace("_", " ")
                found.append(Finding(name, False, f"{type(error).__name__}: {error}", {}))
    return found
