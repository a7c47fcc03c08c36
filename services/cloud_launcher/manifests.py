"""The objects of a session as Kubernetes takes them: pod, policy, service, secret, and its user's volume. Pure.

All have the session's name and belong to the pod, so that nothing outlives it; the volume is the user's and stays.
What is secret is in the Secret alone, mounted as files.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import Any

import msgspec

from schemas.base import SessionId
from schemas.secrets import JobSecrets
from schemas.session import CloudPlace, StartRequested
from schemas.subjects import slug
from services._launching import server_start
from services._runtime.clouds import CloudSystem, Flavour, Image, Mount
from services._runtime.errors import PermanentError
from services.cloud_launcher.patches import merged
from services.cloud_launcher.ports import PodName
from services.cloud_launcher.words import NAME_PREFIX, SERVER, SESSION_LABEL

INSTALLATION_LABEL = "farlab-installation"
GATE = "farlab/not-in-the-log-yet"
GIVEN, OWN = "/run/farlab/given", "/run/farlab/own"
STARTED_BY = f'umask 077; cp -L {GIVEN}/* {OWN}/ && exec "$0" {OWN}/{server_start.STARTER} --address "$FARLAB_ADDRESS"'
"""A mounted Secret cannot be written beside; the programs keep their own files in memory with a copy of it."""
OWN_BYTES = 64 * 1024 * 1024
BACKSTOP_SECONDS = 3600
"""How much longer than its age a pod may live by the cluster's own clock, when no launcher ends it."""
NAME_CHARACTERS = 63

Object = dict[str, Any]


def chosen(cloud: CloudSystem, request: StartRequested) -> tuple[Flavour, Image]:
    """The flavour and the image of a start. Raises PermanentError when the cloud has them not (any more)."""
    place = request.place
    if not isinstance(place, CloudPlace):
        raise PermanentError(
            "not-a-cloud-session",
            f"{request.system} is a cloud, and the start asks for an HPC system's partition.",
            "Choose a flavour and an image.",
        )
    flavour = cloud.flavours_for(request.vo).get(place.flavour)
    if flavour is None:
        raise PermanentError(
            "unknown-flavour", f"{cloud.title} has no flavour {place.flavour!r} for you.", "Choose another flavour."
        )
    images = cloud.images_for(request.vo)
    image = images.get(place.image) if place.image else next(iter(images.values()), None)
    if image is None:
        raise PermanentError(
            "unknown-image", f"{cloud.title} has no image {place.image!r} for you.", "Choose another image."
        )
    return flavour, image


def pod_name(cloud: CloudSystem, request: StartRequested) -> PodName:
    """The name of a session's pod, and of everything that belongs to it."""
    namespace = cloud.site.namespace.format_map({"vo": request.vo, "user": short(request.user, 40)})
    return PodName(bounded(namespace), object_name(request.session))


def object_name(session: SessionId) -> str:
    """The name that every object of a session has."""
    return f"{NAME_PREFIX}{session}"


def service_host(pod: PodName) -> str:
    """How the session's service is named within the cluster."""
    return f"{pod.name}.{pod.namespace}.svc"


def claim_name(installation: str, request: StartRequested) -> str:
    """The name of a user's volume."""
    return bounded(f"{installation}-home-{short(request.user, 30)}")


def short(name: str, most: int) -> str:
    """A name as a part of an object's name: what had to be changed or cut gets a mark of its own, so none meet."""
    plain = slug(name)
    clean = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in plain.lower()).strip("-")
    if clean == name and len(clean) <= most:
        return clean
    return f"{clean[: most - 9].strip('-') or 'x'}-{sha256(name.encode()).hexdigest()[:8]}"


def bounded(name: str) -> str:
    """A name within what Kubernetes takes."""
    if len(name) <= NAME_CHARACTERS:
        return name
    return f"{name[: NAME_CHARACTERS - 9].rstrip('-')}-{sha256(name.encode()).hexdigest()[:8]}"


def labels(installation: str, request: StartRequested) -> dict[str, str]:
    """What a session's objects are found by."""
    return {
        "app.kubernetes.io/managed-by": "farlab",
        INSTALLATION_LABEL: installation,
        "farlab-hub": bounded(str(request.hub)),
        SESSION_LABEL: str(request.session),
        "farlab-user": short(request.user, NAME_CHARACTERS),
    }


def pod(cloud: CloudSystem, installation: str, request: StartRequested) -> Object:
    """The pod, its gate closed: it takes no room until the log has it. Raises PermanentError (see `chosen`)."""
    flavour, image = chosen(cloud, request)
    name, rules = pod_name(cloud, request), cloud.pod
    mounts = [mount(number, each) for number, each in enumerate(rules.mounts)]
    home: Object = {"emptyDir": {}}
    if flavour.storage_bytes:
        home = {"persistentVolumeClaim": {"claimName": claim_name(installation, request)}}
    spec: Object = {
        "schedulingGates": [{"name": GATE}],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": rules.grace_seconds,
        "activeDeadlineSeconds": request.resources.runtime_seconds + BACKSTOP_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": rules.user_id,
            "runAsGroup": rules.group_id,
            "fsGroup": rules.group_id,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(cloud, request, flavour, image, [volume_mount for _, volume_mount in mounts])],
        "volumes": [
            {"name": "farlab-given", "secret": {"secretName": name.name, "defaultMode": 0o440}},
            {"name": "farlab-own", "emptyDir": {"medium": "Memory", "sizeLimit": str(OWN_BYTES)}},
            {"name": "farlab-home", **home},
            *[volume for volume, _ in mounts],
        ],
    }
    optional = {
        "nodeSelector": {**rules.node_selector, **flavour.node_selector},
        "tolerations": [*rules.tolerations, *flavour.tolerations],
        "affinity": rules.affinity,
        "priorityClassName": rules.priority_class,
        "serviceAccountName": rules.service_account,
        "imagePullSecrets": [{"name": each} for each in rules.image_pull_secrets],
    }
    spec |= {key: value for key, value in optional.items() if value}
    whole = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name.name,
            "namespace": name.namespace,
            "labels": labels(installation, request),
            "annotations": rules.annotations,
        },
        "spec": spec,
    }
    patched: Object = merged(whole, rules.patch)
    return patched


def container(
    cloud: CloudSystem, request: StartRequested, flavour: Flavour, image: Image, mounts: list[Object]
) -> Object:
    """The container of the user's server: no privilege, what the flavour has and no more."""
    rules = cloud.pod
    amounts = {"cpu": f"{round(flavour.cpu * 1000)}m", "memory": str(flavour.memory_bytes)}
    if flavour.gpus:
        amounts[flavour.gpu_resource] = str(flavour.gpus)
    path = request.base_url.rstrip("/") + "/farlab/proof?challenge=" + "00" * 8
    return {
        "name": SERVER,
        "image": image.image,
        "command": ["/bin/sh", "-c", STARTED_BY, rules.python],
        "workingDir": rules.home,
        "env": [
            {"name": "FARLAB_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOME", "value": rules.home},
            *[{"name": key, "value": value} for key, value in rules.environment.items()],
        ],
        "ports": [{"name": "server", "containerPort": rules.port}],
        "readinessProbe": {
            "httpGet": {"path": path, "port": rules.port},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 5,
        },
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "farlab-given", "mountPath": GIVEN, "readOnly": True},
            {"name": "farlab-own", "mountPath": OWN},
            {"name": "farlab-home", "mountPath": rules.home},
            *mounts,
        ],
    }


def behind_tls(manifest: Object) -> Object:
    """The pod of a server that asks for the hub's certificate: a kubelet can only see whether it listens."""
    server = next(each for each in manifest["spec"]["containers"] if each["name"] == SERVER)
    asked = server["readinessProbe"].pop("httpGet", None)
    if asked is not None:
        server["readinessProbe"]["tcpSocket"] = {"port": asked["port"]}
    return manifest


def mount(number: int, asked: Mount) -> tuple[Object, Object]:
    """An operator's volume and how the server has it."""
    name = f"mount-{number}"
    volume_mount: Object = {"name": name, "mountPath": asked.path, "readOnly": asked.read_only}
    if asked.sub_path:
        volume_mount["subPath"] = asked.sub_path
    return {"name": name, **asked.source}, volume_mount


def belongings(
    cloud: CloudSystem, installation: str, request: StartRequested, pod: PodName, secrets: JobSecrets
) -> list[Object]:
    """What belongs to a pod and must be there before its gate opens: policy and service, then the Secret."""
    port = cloud.pod.port
    metadata = {
        "name": pod.name,
        "namespace": pod.namespace,
        "labels": labels(installation, request),
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}],
    }
    ours = {SESSION_LABEL: str(request.session)}
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata,
            "spec": {
                "podSelector": {"matchLabels": ours},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [_ingress(cloud.pod.reached_from, port)],
                "egress": [{"to": _everywhere_but(cloud.pod.closed_networks)}],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "type": "ClusterIP",
                "selector": ours,
                "ports": [{"name": "server", "port": port, "targetPort": port, "protocol": "TCP"}],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "immutable": True,
            "data": secret_data(cloud, request, secrets),
        },
    ]


def secret_data(cloud: CloudSystem, request: StartRequested, secrets: JobSecrets) -> dict[str, str]:
    """The files of the Secret: the plan, and the programs that carry it out."""
    plan = server_start.plan(
        request,
        secrets,
        server_start.hub_reached_at(cloud.pod.hub_api_url, secrets.environment),
        ports=(cloud.pod.port, cloud.pod.port),
        server_start_seconds=cloud.pod.server_start_seconds,
    )
    programs = {name: server_start.payload(name).encode() for name in (server_start.STARTER, server_start.PROOF)}
    files = {server_start.SECRETS_FILE: msgspec.json.encode(plan), **programs}
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def claim(cloud: CloudSystem, installation: str, request: StartRequested) -> Object | None:
    """The user's volume, where the flavour has one. It belongs to no pod: it is kept."""
    flavour, _ = chosen(cloud, request)
    if not flavour.storage_bytes:
        return None
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(flavour.storage_bytes)}},
    }
    if flavour.storage_class:
        spec["storageClassName"] = flavour.storage_class
    whole = labels(installation, request)
    del whole[SESSION_LABEL]
    name = pod_name(cloud, request)
    metadata = {"name": claim_name(installation, request), "namespace": name.namespace, "labels": whole}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def _ingress(networks: list[str], port: int) -> Object:
    rule: Object = {"ports": [{"protocol": "TCP", "port": port}]}
    if networks:
        rule["from"] = [{"ipBlock": {"cidr": network}} for network in networks]
    return rule


def _everywhere_but(networks: list[str]) -> list[Object]:
    everywhere: dict[bool, list[str]] = {":" in each: [] for each in ("0.0.0.0/0", "::/0")}
    for network in networks:
        everywhere[":" in network].append(network)
    blocks = [("::/0" if six else "0.0.0.0/0", closed) for six, closed in everywhere.items()]
    return [{"ipBlock": {"cidr": cidr} | ({"except": closed} if closed else {})} for cidr, closed in blocks]
