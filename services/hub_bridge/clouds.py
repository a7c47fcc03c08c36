"""What one user may choose from on a cloud, and what was chosen: flavour, image, time. Pure; starts nothing."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.access import OrganisationAccess
from schemas.base import SystemName
from schemas.session import CloudPlace, Resources
from services._runtime.clouds import CloudSystem, Flavour


class FlavourOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A flavour as the form shows it, times in whole minutes."""

    title: str
    cpu: float
    memory_gib: float
    gpus: int
    max_runtime_minutes: int
    idle_minutes: int | None


class CloudOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A cloud with the flavours and images that are open to the user: titles by name."""

    title: str
    description: str
    flavours: dict[str, FlavourOffer]
    images: dict[str, str]
    cores: dict[str, int]
    memory_bytes: dict[str, int]


class CloudChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A start on a cloud as the user wants it, complete and allowed."""

    system: str
    vo: str
    flavour: str
    image: str
    runtime_minutes: int
    cores: int
    gpus: int
    memory_bytes: int
    software: str = "jupyterlab"

    @property
    def place(self) -> CloudPlace:
        """Where it runs."""
        return CloudPlace(flavour=self.flavour, image=self.image)

    @property
    def resources(self) -> Resources:
        """What the flavour has, for as long as was asked."""
        return Resources(
            runtime_seconds=self.runtime_minutes * 60,
            cores=self.cores,
            gpus=self.gpus,
            memory_bytes=self.memory_bytes,
        )

    def options(self) -> dict[str, object]:
        """The same as JupyterHub keeps it, for the next start: only what a user chooses."""
        return {
            "system": self.system,
            "vo": self.vo,
            "flavour": self.flavour,
            "image": self.image,
            "runtime_minutes": self.runtime_minutes,
        }


def cloud_offers(clouds: Mapping[SystemName, CloudSystem], organisation: OrganisationAccess) -> dict[str, CloudOffer]:
    """The clouds that are open to a member of the organisation. What leads nowhere is left out."""
    offered: dict[str, CloudOffer] = {}
    for name, cloud in clouds.items():
        within = not organisation.systems or name in organisation.systems
        flavours, images = cloud.flavours_for(organisation.name), cloud.images_for(organisation.name)
        if within and cloud.open_to(organisation.name) and flavours and images:
            offered[name] = CloudOffer(
                title=cloud.title,
                description=cloud.description,
                flavours={each: _flavour(each, flavour) for each, flavour in flavours.items()},
                images={each: image.title or each for each, image in images.items()},
                cores={each: max(1, round(flavour.cpu)) for each, flavour in flavours.items()},
                memory_bytes={each: flavour.memory_bytes for each, flavour in flavours.items()},
            )
    return offered


def _flavour(name: str, flavour: Flavour) -> FlavourOffer:
    return FlavourOffer(
        title=flavour.title or name,
        cpu=flavour.cpu,
        memory_gib=round(flavour.memory_bytes / 1024**3, 1),
        gpus=flavour.gpus,
        max_runtime_minutes=max(flavour.max_age_seconds // 60, 1),
        idle_minutes=flavour.idle_seconds // 60 if flavour.idle_seconds is not None else None,
    )
