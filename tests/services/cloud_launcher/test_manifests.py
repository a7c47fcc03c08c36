"""The objects of a session, whole; names that never meet; the operator's patch."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.secrets import Certificates, JobSecrets
from schemas.session import CloudPlace, HpcPlace
from services._runtime.clouds import CloudSystem, Flavour, Image, Mount, Pod
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import PermanentError
from services.cloud_launcher import manifests
from services.cloud_launcher.patches import merged
from services.cloud_launcher.ports import PodName
from services.cloud_launcher.settings import check_pod
from tests.services.cloud_launcher.stage import Story, cloud_at

NOWHERE = Path("/nowhere")
SECRETS = JobSecrets(
    environment={"JUPYTERHUB_API_TOKEN": "canary", "JUPYTERHUB_API_URL": "http://a/hub/api"}, proof_key="ab" * 32
)


def cloud(**pod: Any) -> CloudSystem:
    return msgspec.structs.replace(cloud_at(NOWHERE), pod=Pod(**pod))


def test_a_pod_has_no_right_it_does_not_need() -> None:
    made = manifests.pod(cloud(), "farlab", Story().requested())
    spec, [server] = made["spec"], made["spec"]["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert server["resources"]["limits"] == server["resources"]["requests"] == {"cpu": "1000m", "memory": str(2**30)}
    assert spec["schedulingGates"] == [{"name": manifests.GATE}]
    assert "serviceAccountName" not in spec
    assert "canary" not in str(made)


def test_secrets_are_in_the_secret_alone_and_everything_belongs_to_the_pod() -> None:
    story = Story()
    pod = PodName("farlab", f"farlab-{story.session}", "the-uid")
    here = cloud(hub_api_url="https://hub.example/hub/api", reached_from=["10.1.0.0/16"])
    policy, service, secret = manifests.belongings(here, "farlab", story.requested(), pod, SECRETS)
    for each in (policy, service, secret):
        assert each["metadata"]["ownerReferences"][0]["uid"] == "the-uid"
        assert each["metadata"]["name"] == pod.name
    plan = msgspec.json.decode(base64.b64decode(secret["data"]["farlab-secrets.json"]))
    assert plan["environment"]["JUPYTERHUB_API_TOKEN"] == "canary"
    assert plan["environment"]["JUPYTERHUB_API_URL"] == "https://hub.example/hub/api"
    assert plan["ports"] == [8888, 8888]
    assert "canary" not in str(policy) + str(service)
    assert policy["spec"]["ingress"] == [
        {"ports": [{"protocol": "TCP", "port": 8888}], "from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}
    ]
    assert policy["spec"]["egress"][0]["to"] == [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
        {"ipBlock": {"cidr": "::/0"}},
    ]


def test_what_operators_add_is_there() -> None:
    here = msgspec.structs.replace(
        cloud(
            mounts=[Mount(path="/data", source={"persistentVolumeClaim": {"claimName": "data"}}, sub_path="x")],
            node_selector={"pool": "jupyter"},
            priority_class="interactive",
            service_account="jupyter",
            image_pull_secrets=["registry"],
            tolerations=[{"key": "a", "operator": "Exists"}],
        ),
        flavours={"small": Flavour(gpus=2, node_selector={"gpu": "yes"}, tolerations=[{"key": "gpu"}])},
    )
    spec = manifests.pod(here, "farlab", Story().requested())["spec"]
    assert spec["nodeSelector"] == {"pool": "jupyter", "gpu": "yes"}
    assert [each["key"] for each in spec["tolerations"]] == ["a", "gpu"]
    assert spec["priorityClassName"] == "interactive"
    assert spec["serviceAccountName"] == "jupyter"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    [server] = spec["containers"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert server["volumeMounts"][-1] == {"name": "mount-0", "mountPath": "/data", "readOnly": True, "subPath": "x"}
    assert spec["volumes"][-1] == {"name": "mount-0", "persistentVolumeClaim": {"claimName": "data"}}


def test_a_home_is_the_users_own_and_carries_no_session() -> None:
    here, story = cloud_at(NOWHERE), Story(user="Ada@example.org")
    claim = manifests.claim(here, "farlab", story.requested(partition="home"))
    assert claim is not None
    assert manifests.SESSION_LABEL not in claim["metadata"]["labels"]
    volumes = manifests.pod(here, "farlab", story.requested(partition="home"))["spec"]["volumes"]
    assert {"claimName": claim["metadata"]["name"]} in [each.get("persistentVolumeClaim") for each in volumes]
    assert manifests.claim(here, "farlab", story.requested()) is None


def test_behind_tls_the_probe_only_asks_whether_it_listens() -> None:
    certified = msgspec.structs.replace(SECRETS, certificates=Certificates(keyfile="k", certfile="c", cafile="a"))
    made = manifests.behind_tls(manifests.pod(cloud(), "farlab", Story().requested()))
    assert made["spec"]["containers"][0]["readinessProbe"]["tcpSocket"] == {"port": 8888}
    assert certified.certificates is not None


@pytest.mark.parametrize(
    "place",
    [
        CloudPlace(flavour="huge"),
        CloudPlace(flavour="small", image="mine"),
        HpcPlace(account="a", project="b", partition="c"),
    ],
)
def test_what_is_not_offered_is_refused(place: CloudPlace | HpcPlace) -> None:
    with pytest.raises(PermanentError):
        manifests.pod(cloud(), "farlab", msgspec.structs.replace(Story().requested(), place=place))


def test_flavours_and_images_of_an_organisation_are_for_its_members() -> None:
    here = msgspec.structs.replace(
        cloud(), images={"all": Image(image="a"), "theirs": Image(image="b", organisations=["ai"])}
    )
    assert list(here.images_for("default")) == ["all"]
    assert list(here.images_for("ai")) == ["all", "theirs"]


NAMES = st.text(min_size=1, max_size=80)


@given(NAMES, NAMES)
def test_names_are_kubernetes_and_never_meet(one: str, other: str) -> None:
    first, second = manifests.short(one, 40), manifests.short(other, 40)
    for each in (first, second):
        assert 0 < len(each) <= 40
        assert all(letter in "abcdefghijklmnopqrstuvwxyz0123456789-" for letter in each)
        assert each[0] != "-" != each[-1]
    assert (first == second) == (one == other)


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": 1}, {"b": {"c": 2}}, {"a": 1, "b": {"c": 2}}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 1}}, {"a": {"c": 1}}),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"env": [{"name": "A", "value": "3"}, {"name": "B", "$patch": "delete"}, {"name": "C", "value": "4"}]},
            {"env": [{"name": "A", "value": "3"}, {"name": "C", "value": "4"}]},
        ),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
        (
            {"volumes": [{"name": "a"}]},
            {"volumes": [{"$patch": "replace"}, {"name": "b"}]},
            {"volumes": [{"name": "b"}]},
        ),
    ],
)
def test_a_patch_merges_as_kubectl_does(target: Any, patch: Any, expected: Any) -> None:
    assert merged(target, patch) == expected


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (
            {"spec": {"nodeSelektor": {"a": "b"}}},
            'spec.nodeSelektor is not a field of Kubernetes; did you mean "nodeSelector"?',
        ),
        ({"spec": {"containers": [{"name": "server", "imagePullPolicies": "x"}]}}, "imagePullPolicies is not a field"),
        ({"spec": {"hostNetwork": "yes"}}, "spec.hostNetwork = 'yes': must be true or false"),
        ({"spec": {"containers": [{"name": "server", "$patch": "delete"}]}}, 'the container "server" must stay'),
        ({"spec": {"schedulingGates": None}}, "pod.patch.spec.schedulingGates: must stay"),
        ({"metadata": {"labels": {"farlab-session": "x"}}}, "the labels of farlab must stay"),
    ],
)
def test_a_patch_that_makes_no_pod_of_it_is_said_at_start_up(patch: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        check_pod(cloud(patch=patch), "systems/demo-cloud.toml")
    assert words in str(wrong.value)


def test_a_good_patch_is_taken() -> None:
    patch = {"spec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}], "dnsPolicy": "Default"}}
    check_pod(cloud(patch=patch), "systems/demo-cloud.toml")
    spec = manifests.pod(cloud(patch=patch), "farlab", Story().requested())["spec"]
    assert spec["dnsPolicy"] == "Default"
