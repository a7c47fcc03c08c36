"""Whether a start on a cloud is allowed: organisation, flavour, image and amounts. Pure; judges no person."""

from __future__ import annotations

from math import ceil

from schemas.session import CloudPlace, Place, StartRequested
from services._runtime.clouds import CloudSystem, Flavour
from services.accounts.verdicts import Allowed, Refused, Verdict, choose


def fits_cloud(request: StartRequested, cloud: CloudSystem) -> Verdict:
    """The verdict on what is asked of a cloud, by the first rule it breaks."""
    place = request.place
    if not isinstance(place, CloudPlace):
        return Refused("wrong-kind", f"{cloud.title} is a cloud.", "Choose a flavour and an image.")
    if not cloud.open_to(request.vo):
        return Refused(
            "system-not-allowed",
            f"{cloud.title} is not open to {request.vo!r}.",
            choose("an organisation it is open to", cloud.organisations),
        )
    flavours, images = cloud.flavours_for(request.vo), cloud.images_for(request.vo)
    if (flavour := flavours.get(place.flavour)) is None:
        return Refused(
            "flavour-not-allowed",
            f"The flavour {place.flavour!r} of {cloud.title} is not open to you.",
            choose("a flavour", flavours, place.flavour),
        )
    if (place.image and place.image not in images) or not images:
        return Refused(
            "image-not-allowed",
            f"The image {place.image!r} of {cloud.title} is not open to you.",
            choose("an image", images, place.image),
        )
    return _amounts(request, flavour) or Allowed("")


def cores_of_cloud(cloud: CloudSystem, place: Place) -> int:
    """How many cores a start takes: those of its flavour, a part of one counted whole."""
    flavour = cloud.flavours.get(place.flavour) if isinstance(place, CloudPlace) else None
    return 1 if flavour is None else ceil(flavour.cpu)


def _amounts(request: StartRequested, flavour: Flavour) -> Refused | None:
    """The log must say what is used: a start asks for its flavour's amounts, and for no longer life."""
    asked = request.resources
    for what, value, most in (
        ("runtime_seconds", asked.runtime_seconds, flavour.max_age_seconds),
        ("nodes", asked.nodes, 1),
        ("gpus", asked.gpus, flavour.gpus),
        ("memory_bytes", asked.memory_bytes or 0, flavour.memory_bytes),
    ):
        if value > most:
            return Refused(
                "over-the-limit", f"{what} = {value} is more than the flavour has.", f"Choose at most {most}."
            )
    if asked.gpus != flavour.gpus:
        return Refused(
            "under-the-limit", f"gpus = {asked.gpus} is less than the flavour has.", f"It must be {flavour.gpus}."
        )
    return None
