"""The manifests are what KubeRay and Kubernetes take, without root, and fit their job."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from cluster.config.job_file import load_job
from cluster.jobs import submission

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KNOWN = yaml.safe_load((Path(__file__).parent / "known_fields.yaml").read_text())
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
SCALARS = {"string": str, "integer": int, "boolean": bool}
UNITS = {"": 1, "m": 1e-3, "Gi": 2**30}


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def all_documents():
    names = sorted(path.name for path in FOLDER.glob("*.yaml") if path.stem != "kustomization")
    return [document for name in names for document in documents(name)]


CLUSTER = documents("raycluster.yaml")[0]["spec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
TEMPLATES = [CLUSTER["headGroupSpec"]["template"], *(g["template"] for g in GROUPS.values())]
CONTAINERS = [container for t in TEMPLATES for container in t["spec"]["containers"]]


def problems(value, kind, place):
    """Yield the places where a value is not of a kind, as known_fields.yaml describes kinds."""
    if isinstance(kind, list):
        for index, item in enumerate(value if isinstance(value, list) else [None]):
            yield from problems(item, kind[0], f"{place}.{index}")
    elif kind.startswith("map of "):
        for key, item in value.items() if isinstance(value, dict) else [("", None)]:
            yield from problems(item, kind.removeprefix("map of "), f"{place}.{key}")
    elif kind in KNOWN["types"]:
        yield from problems_of_fields(value, kind, place)
    elif not is_scalar(value, kind):
        yield f"{place} = {value!r} is no {kind}"


def problems_of_fields(value, kind, place):
    if not isinstance(value, dict):
        yield f"{place} = {value!r} is no {kind}"
        return
    known = KNOWN["types"][kind]
    for name, item in value.items():
        if name in known:
            yield from problems(item, known[name], f"{place}.{name}")
        else:
            yield f"{place}.{name} is no field of {kind}"


def is_scalar(value, kind):
    if kind in KNOWN["words"]:
        return value in KNOWN["words"][kind]
    if kind == "quantity":
        return QUANTITY.fullmatch(str(value)) is not None
    if kind == "integer or string":
        return type(value) in (int, str)
    return type(value) is SCALARS[kind]


def amount(quantity):
    number, unit = re.fullmatch(r"([\d.]+)(.*)", str(quantity)).groups()
    return float(number) * UNITS[unit]


@pytest.mark.parametrize("document", all_documents(), ids=lambda d: d["kind"])
def test_every_field_is_one_that_kuberay_or_kubernetes_knows(document):
    assert list(problems(document, document["kind"], document["kind"])) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rayVersions": "2.60.0"}, "RayCluster.rayVersions is no field of RayClusterSpec"),
        ({"rayVersion": 2.6}, "RayCluster.rayVersion = 2.6 is no string"),
        ({"authOptions": {"mode": "tokens"}}, "authOptions.mode = 'tokens' is no AuthMode"),
        ({"enableInTreeAutoscaling": 1}, "enableInTreeAutoscaling = 1 is no boolean"),
        ({"workerGroupSpecs": [{"labels": {"pool": 1}}]}, "Specs.0.labels.pool = 1 is no string"),
        ({"workerGroupSpecs": {}}, "workerGroupSpecs.0 = None is no WorkerGroupSpec"),
    ],
)
def test_a_wrong_field_is_found(change, problem):
    found = list(problems({**CLUSTER, **change}, "RayClusterSpec", "RayCluster"))
    assert len(found) == 1
    assert found[0].endswith(problem)


def test_the_operators_own_rules_hold():
    # What KubeRay's validation refuses beside unknown fields.
    for group in (CLUSTER["headGroupSpec"], *GROUPS.values()):
        assert "labels" not in group["rayStartParams"]
        assert "restartPolicy" not in group["template"]["spec"]  # the autoscaler's second version
    for group in GROUPS.values():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_ray_is_the_version_that_irlign_pins():
    pins = (ROOT / "pyproject.toml").read_text()
    assert f'"ray[default,rllib,train]=={CLUSTER["rayVersion"]}"' in pins


def test_rays_autoscaler_reads_groups_sizes_and_labels_from_the_cluster():
    found = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "irlign", "namespace": "irlign"}, "spec": CLUSTER}
    )
    kinds = found["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    for name, most in (("rollout", 2), ("scorer", 4), ("learner", 6)):
        assert (kinds[name]["min_workers"], kinds[name]["max_workers"]) == (0, most)
        assert kinds[name]["resources"] == {"CPU": 64, "GPU": 8, "memory": 1500 * 2**30}
        assert kinds[name]["labels"] == {"pool": name}


def test_no_container_runs_as_root_or_without_a_limit():
    unprivileged = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for template in TEMPLATES:
        user = template["spec"]["securityContext"]
        assert user["runAsNonRoot"] is True
        assert user["runAsUser"] == 1000
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    autoscaler = CLUSTER["autoscalerOptions"]
    for container in (*CONTAINERS, autoscaler):
        assert container["securityContext"] == unprivileged
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert documents("namespace.yaml")[0]["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }


def test_the_token_comes_from_a_secret_and_no_secret_is_written_down():
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": "irlign-ray-token"}
    assert "Secret" not in {document["kind"] for document in all_documents()}
    for path in sorted((ROOT / "deploy").rglob("*")):
        if path.suffix in {".yaml", ".service"} or path.name == "Dockerfile":
            text = path.read_text()
            assert not re.search(r"(TOKEN|PASSWORD|SECRET)\w*[=:]\s*[\"']?\w", text), path
            assert not re.search(r"[A-Za-z0-9+/]{40,}", text), path  # nothing that looks like a key


def test_the_object_store_fits_the_shared_memory_it_is_given():
    for group in (CLUSTER["headGroupSpec"], *GROUPS.values()):
        spec = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in spec["containers"][0]["volumeMounts"]}
        shared = volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shared["medium"] == "Memory"
        assert int(group["rayStartParams"]["object-store-memory"]) < amount(shared["sizeLimit"])


def test_every_worker_sees_the_runs_where_irlign_submit_puts_them():
    claims = {d["metadata"]["name"]: d["spec"] for d in documents("storage.yaml")}
    assert claims["irlign-runs"]["accessModes"] == ["ReadWriteMany"]
    assert claims["irlign-gcs"]["accessModes"] == ["ReadWriteOnce"]
    place = submission.RUNS_DIR.replace("~", "/home/ray")
    for template in TEMPLATES:
        spec = template["spec"]
        assert {"name": "runs", "mountPath": place} in spec["containers"][0]["volumeMounts"]
        assert {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"][:-1]} <= set(
            claims
        )
        variables = {v["name"]: v["value"] for v in spec["containers"][0]["env"]}
        assert variables["IRLIGN_ALLOWED_PATHS"] == place
        assert variables["IRLIGN_ALLOWED_IMPORTS"] == ""


def test_the_control_store_is_on_the_heads_volume_and_workers_wait_for_a_head_that_moves():
    head, *workers = [{v["name"]: v["value"] for v in c["env"]} for c in CONTAINERS]
    path = head["RAY_gcs_storage_path"]
    assert head["RAY_gcs_storage"] == "rocksdb"
    assert {"name": "gcs", "mountPath": path} in CONTAINERS[0]["volumeMounts"]
    for variables in workers:
        assert "RAY_gcs_storage" not in variables  # it has one writer
        assert variables["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"


def test_only_the_cluster_the_operator_and_prometheus_reach_its_pods():
    (policy,) = documents("network_policy.yaml")
    label = policy["spec"]["podSelector"]["matchLabels"]
    for template in TEMPLATES:
        assert label.items() <= template["metadata"]["labels"].items()
    own, operator, prometheus = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": label}}]}
    ports = {p["name"]: p["containerPort"] for p in CONTAINERS[0]["ports"]}
    assert ports == {"gcs": 6379, "dashboard": 8265, "metrics": 8080}
    assert [p["port"] for p in operator["ports"]] == [ports["dashboard"]]
    assert [p["port"] for p in prometheus["ports"]] == [ports["metrics"]]
    assert all(policy["spec"]["egress"])  # an empty rule would allow everything
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_groups_have_room_and_labels_for_the_job_that_is_submitted():
    (run,) = documents("rayjob.yaml")
    command = run["spec"]["entrypoint"].split()
    job = load_job(ROOT / "deploy" / "jobs" / Path(command[3]).name)
    assert command[:3] == ["exec", "irlign", "train"]
    assert command[5] == f"{submission.RUNS_DIR.replace('~', '/home/ray')}/{job.name}"
    assert run["spec"]["metadata"] == {submission.RUN: job.name, submission.RUN_DIR: command[5]}
    waits = yaml.safe_load(run["spec"]["runtimeEnvYAML"])["env_vars"]
    assert waits == {"RAY_JOB_STOP_WAIT_TIME_S": str(submission.STOP_WAIT_S)}
    assert run["spec"]["clusterSelector"] == {"ray.io/cluster": "irlign"}
    wanted = {
        "rollout": job.rollout.num_workers * job.rollout.gpus_per_worker,
        "discriminator": job.discriminator.num_workers * job.discriminator.gpus_per_worker,
        "learner": job.learner.num_ranks * job.learner.gpus_per_rank,
    }
    assert job.placement.node_labels.keys() == wanted.keys()
    for kind, labels in job.placement.node_labels.items():
        (group,) = [g for g in GROUPS.values() if labels.items() <= g["labels"].items()]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert wanted[kind] == group["replicas"] * amount(limits["nvidia.com/gpu"]), kind
    assert job.autoscale.max_workers == GROUPS["rollout"]["maxReplicas"] * 8


needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def kubectl(*arguments, stdin=None):
    command = ["kubectl", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@needs_kubectl
def test_kustomize_puts_everything_into_one_namespace_with_images_of_a_version():
    built = kubectl("kustomize", str(FOLDER))
    assert built.returncode == 0, built.stderr
    made = list(yaml.safe_load_all(built.stdout))
    assert {d["metadata"].get("namespace", d["metadata"]["name"]) for d in made} == {"irlign"}
    images = set(re.findall(r"image: (\S+)", built.stdout))
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[
        1
    ]
    assert images == {f"irlign-cpu:{version}", f"irlign-gpu:{version}"}


@needs_kubectl
@pytest.mark.parametrize("template", TEMPLATES[:2], ids=["head", "worker"])
def test_kubectl_itself_knows_every_field_of_the_pods(template):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": template["spec"]}
    text = json.dumps(pod)
    read = kubectl("set", "env", "--local", "-f", "-", "A=b", "-o", "json", stdin=text)
    assert read.returncode == 0, read.stderr
    assert lost(pod["spec"], json.loads(read.stdout)["spec"]) == []


def lost(given, kept, place="spec"):
    """Return what kubectl left out, as it does with a field that it does not know."""
    if isinstance(given, dict):
        return [x for k, v in given.items() for x in lost(v, (kept or {}).get(k), f"{place}.{k}")]
    if isinstance(given, list):
        pairs = zip(given, kept or [None] * len(given), strict=False)
        return [x for i, (a, b) in enumerate(pairs) for x in lost(a, b, f"{place}.{i}")]
    return [] if given == ("" if kept is None else kept) else [place]  # it leaves "" out


@needs_kubectl
def test_a_cluster_takes_the_manifests():
    if kubectl("cluster-info", "--request-timeout=1s").returncode:
        pytest.skip("kubectl asks a cluster for its kinds, and there is none")
    for arguments in (["-k", str(FOLDER)], ["-f", str(FOLDER / "rayjob.yaml")]):
        result = kubectl("apply", "--dry-run=client", *arguments)
        assert result.returncode == 0, result.stderr
