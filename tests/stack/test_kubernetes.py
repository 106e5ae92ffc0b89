"""docker/kubernetes is valid, and its job template takes what `ratchet deploy` puts into the deployments."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.utilities.templating import apply_values

from components.config.shipped import conf_path

KUBERNETES = Path(__file__).parents[2] / "docker" / "kubernetes"
VERSIONS = ("1.32", kubernetes_validate.latest_version())
MANIFESTS = sorted({path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"})
TEMPLATE = json.loads((KUBERNETES / "job-template.json").read_text())
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def rendered(**variables: Any) -> dict[str, Any]:
    """The job that the worker would create, as Prefect fills the template."""
    defaults = {
        name: value["default"] for name, value in TEMPLATE["variables"]["properties"].items() if "default" in value
    }
    own = {
        "name": "calm-otter",
        "command": ["prefect", "flow-run", "execute"],
        "labels": {"prefect.io/flow-name": "gc"},
    }
    job = apply_values(TEMPLATE["job_configuration"]["job_manifest"], defaults | own | variables)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    # The worker writes the variables of a dict as the list that Kubernetes wants.
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    return dict(job)


def deployed_variables() -> dict[str, Any]:
    """The job variables of the shipped deployments."""
    text = conf_path("prefect.yaml").read_text().replace("{{ $RATCHET_RUNS }}", "/runs")
    (variables,) = {json.dumps(entry["work_pool"]["job_variables"]) for entry in yaml.safe_load(text)["deployments"]}
    return dict(json.loads(variables))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_match_the_schemas(name: str, version: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_manifest_with_an_unknown_field_is_found() -> None:
    """Catches a validation that checks nothing."""
    document = documents("storage.yaml")[0]
    document["spec"]["accessMode"] = document["spec"].pop("accessModes")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_kustomization_names_every_manifest_and_file() -> None:
    assert sorted(KUSTOMIZATION["resources"]) == MANIFESTS
    for generator in KUSTOMIZATION["configMapGenerator"]:
        assert [file for file in generator.get("files", []) if not (KUBERNETES / file).exists()] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("gpus", [0, 8])
def test_job_of_a_deployment_matches_the_schema(version: str, gpus: int) -> None:
    kubernetes_validate.validate(rendered(**deployed_variables(), gpus=gpus), version, strict=True)


@pytest.mark.parametrize("start_nodes", [False, True])
def test_job_has_a_token_only_if_it_is_to_start_nodes(start_nodes: bool) -> None:
    pod = rendered(**deployed_variables(), start_nodes=start_nodes)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is start_nodes
    account, role, binding = documents("nodes.yaml")
    assert pod["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert "start_nodes" not in deployed_variables()


def test_job_works_in_the_shared_volume_without_rights(tmp_path: Path) -> None:
    pod = rendered(**deployed_variables(), gpus=8)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["workingDir"] == "/runs"
    assert {"name": "RATCHET_RUNS", "value": "/runs"} in container["env"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names
    (claim,) = documents("storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in pod["volumes"]


def test_job_template_takes_every_variable_of_the_deployments() -> None:
    """Catches a deployment that Prefect would refuse for this pool, or whose variable would change nothing."""
    variables = TEMPLATE["variables"]
    assert deployed_variables().keys() <= variables["properties"].keys()
    jsonschema.validate(deployed_variables(), variables)
    text = json.dumps(TEMPLATE["job_configuration"])
    assert [name for name in variables["properties"] if f'"{{{{ {name} }}}}' not in text] == []


def test_prefect_takes_the_template_for_a_pool_and_refuses_one_with_an_unknown_variable() -> None:
    WorkPoolCreate(name="ratchet", type="kubernetes", base_job_template=TEMPLATE)
    text = json.dumps(TEMPLATE).replace('"{{ claim }}"', '"{{ claims }}"')
    with pytest.raises(ValueError, match="claims"):
        WorkPoolCreate(name="ratchet", type="kubernetes", base_job_template=json.loads(text))


def test_pods_name_config_maps_that_exist_and_one_secret() -> None:
    texts = [json.dumps(documents(name)) for name in MANIFESTS] + [json.dumps(TEMPLATE)]
    maps = set(re.findall(r'"(?:configMapRef|configMap)": {"name": "([^"]+)"', "".join(texts)))
    assert maps == {generator["name"] for generator in KUSTOMIZATION["configMapGenerator"]}
    assert set(re.findall(r'"(?:secretName|secretKeyRef": {"name)": "([^"]+)"', "".join(texts))) == {"ratchet"}
