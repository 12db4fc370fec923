"""Weight files that are not on this machine yet: from the hub, or from the address on a backbone's card."""

from __future__ import annotations

import time
from pathlib import Path

from vpbench.backbones.named import BackboneCard, backbone_card, backbone_names
from vpbench.core.errors import DataError, WeightsError
from vpbench.core.hub import hub_errors
from vpbench.core.user_folders import cache_root
from vpbench.data.catalog import Download
from vpbench.data.download import RetryPolicy, checksums, fetch
from vpbench.spec.run_spec import BackboneSpec

WAY_OUT = "Give a file or folder with --weights, or ask for --weights random on purpose."


def fetched(spec: BackboneSpec, retries: RetryPolicy | None = None) -> Path:
    """The weight file of a specification without a path: from a cache on this machine, or fetched into it.

    Raises:
        WeightsError: when it cannot be fetched, or is not the file that the card means.
    """
    kind, _, place = spec.weights.partition(":")
    if kind == "url" and spec.name in backbone_names():
        return _from_url(spec.name, backbone_card(spec.name), place, retries)
    return _from_hub(spec.name, place)


def on_this_machine(spec: BackboneSpec) -> Path | None:
    """The weight file of a specification where it is here already, named or in a cache; nothing is fetched."""
    if spec.path:
        return Path(spec.path)
    kind, _, place = spec.weights.partition(":")
    if kind == "url":
        target = _url_target(place)
        return target if target.exists() else None
    return _in_hub_cache(place)


def _url_target(url: str) -> Path:
    return cache_root() / "weights" / url.rsplit("/", 1)[-1]


def _from_hub(name: str, place: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    repository, _, filename = place.rpartition("/")
    try:
        with hub_errors(repository, WeightsError, WAY_OUT, filename):
            if not (constants.HF_HUB_OFFLINE or _in_hub_cache(place)):
                _reach_hub(repository, filename)
            return Path(hf_hub_download(repository, filename))
    except WeightsError as error:
        raise WeightsError(f"weights of {name}: {error}") from error


def _reach_hub(repository: str, filename: str) -> None:
    """Asks for the file's size, a second and a third time where there is no answer.

    The client's download waits half a minute for a hub that cannot be reached, which no setting of it shortens.

    Raises:
        Exception: of the client's transport, when there is no answer.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    for wait_s in (1, 2, None):
        try:
            get_hf_file_metadata(hf_hub_url(repository, filename))
            return
        except HfHubHTTPError:  # an answer; the download says which
            return
        except Exception:  # of its transport, which is no part of the client's interface; the last one is raised
            if wait_s is None:
                raise
            time.sleep(wait_s)


def _in_hub_cache(place: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repository, _, filename = place.rpartition("/")
    found = try_to_load_from_cache(repository, filename)
    return Path(found) if isinstance(found, str) else None


def _from_url(name: str, card: BackboneCard, url: str, retries: RetryPolicy | None) -> Path:
    """The file below ``VPBENCH_CACHE`` (or the user's cache folder); it has its name only once it is whole and checked."""
    target = _url_target(url)
    if not target.exists():
        unchecked = target.with_name(f"{target.name}.unchecked")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fetch(Download.model_validate({"url": url, "sha256": card.sha256}), unchecked, retries=retries)
        except OSError as error:
            raise WeightsError(
                f"{target.parent} cannot be written ({error.strerror or error}): set VPBENCH_CACHE to another folder."
            ) from error
        except DataError as error:
            # The downloader speaks of data sets, whose folder is chosen in another way.
            reason = str(error).replace("another --data-root", "another folder with VPBENCH_CACHE")
            raise WeightsError(f"weights of {name}: {reason} {WAY_OUT}") from error
        if wrong := _difference(card, unchecked):
            unchecked.unlink()
            raise WeightsError(f"weights of {name}: the file that came from {url} has {wrong}; it was removed. {WAY_OUT}")
        unchecked.replace(target)
    if wrong := _difference(card, target):
        raise WeightsError(f"weights of {name}: {target} has {wrong}; delete it, and it is fetched again.")
    return target


def _difference(card: BackboneCard, file: Path) -> str:
    """How a file differs from what the card says of it; empty when it does not. Published MD5 sums are often beginnings."""
    published = {kind: value for kind in ("sha256", "md5") if (value := getattr(card, kind))}
    found = checksums(file, tuple(published))
    wrong = (
        f"{kind} {found[kind]}, the card says {value}" for kind, value in published.items() if not found[kind].startswith(value)
    )
    return next(wrong, "")
