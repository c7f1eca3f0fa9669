"""The configuration files of other hosts, by what each says about building and serving the same site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from workers.frameworks.node_projects import as_mapping
from workers.frameworks.site_files.fields import SiteFile, environment_of, given_text, text_of, version_of
from workers.frameworks.site_files.formats import read_json, read_toml, read_yaml
from workers.frameworks.site_files.routing import Routing, RoutingBuilder, from_pattern
from workers.frameworks.source_tree import SourceTree, join

_VERCEL_FRAMEWORKS: Mapping[str, str] = {
    "nuxtjs": "nuxt",
    "docusaurus-2": "docusaurus",
    "sveltekit-1": "sveltekit",
    "vue": "vue-cli",
    "solidstart-1": "solidstart",
    "preact": "preact-cli",
    "umijs": "umi",
}


def read_netlify(tree: SourceTree, directory: str, *, is_preview: bool) -> SiteFile | None:
    """netlify.toml. Of its contexts, `production` counts for production, and `deploy-preview` for previews."""
    path = join(directory, "netlify.toml")
    document = read_toml(tree, path)
    if document is None:
        return None
    context = as_mapping(as_mapping(document.get("context")).get("deploy-preview" if is_preview else "production"))
    build = as_mapping(document.get("build"))
    variables = as_mapping(build.get("environment")) | as_mapping(context.get("environment"))
    build = build | {name: context[name] for name in ("command", "publish", "base") if name in context}
    base, publish = given_text(build.get("base")), given_text(build.get("publish"))
    routing = RoutingBuilder()
    for rule in _list(document.get("redirects")):
        if rule.get("query") or rule.get("conditions"):
            routing.leave_out()
            continue
        is_forced = rule.get("force") in (True, "true")
        routing.add_redirect(rule.get("from"), rule.get("to"), rule.get("status", 301), is_forced=is_forced)
    for rule in _list(document.get("headers")):
        routing.add_headers(rule.get("for"), as_mapping(rule.get("values")))
    return _site_file(
        path,
        routing.build(),
        {"base": "build.base", "build_command": "build.command", "output_directory": "build.publish"}
        | {"node_version": "build.environment.NODE_VERSION"},
        base=None if base is None else join(directory, base.lstrip("/") or "."),
        build_command=text_of(build.get("command")),
        output_directory=None if publish is None else publish.lstrip("/") or ".",
        node_version=version_of(variables.get("NODE_VERSION")),
        python_version=version_of(variables.get("PYTHON_VERSION")),
        environment=environment_of(variables),
        address_variables=("URL", "DEPLOY_URL", "DEPLOY_PRIME_URL"),
    )


def read_vercel(tree: SourceTree, directory: str) -> SiteFile | None:
    """vercel.json."""
    path = join(directory, "vercel.json")
    document = read_json(tree, path)
    if document is None:
        return None
    routing = RoutingBuilder()
    for rule in _list(document.get("redirects")):
        status = rule.get("statusCode", 307 if rule.get("permanent") is False else 308)
        _add_pattern(routing, rule, status)
    for rule in _list(document.get("rewrites")):
        _add_pattern(routing, rule, 200)
    for rule in _list(document.get("headers")):
        place = from_pattern(rule.get("source"), "/")
        if place is None or rule.get("has") or rule.get("missing"):
            routing.leave_out()
        else:
            routing.add_headers(place[0], _pairs(rule.get("headers"), "key"))
    framework = given_text(document.get("framework"))
    return _site_file(
        path,
        routing.build(),
        {"install_command": "installCommand", "build_command": "buildCommand", "output_directory": "outputDirectory"},
        framework=_VERCEL_FRAMEWORKS.get(framework, framework) if framework else None,
        install_command=text_of(document.get("installCommand")),
        build_command=text_of(document.get("buildCommand")),
        output_directory=given_text(document.get("outputDirectory")),
        environment=environment_of(as_mapping(document.get("build")).get("env")),
    )


def read_wrangler(tree: SourceTree, directory: str) -> SiteFile | None:
    """wrangler.toml, .json or .jsonc: the settings of Pages, and of a Worker with static files."""
    for name in ("wrangler.jsonc", "wrangler.json", "wrangler.toml"):
        path = join(directory, name)
        document = read_toml(tree, path) if name.endswith(".toml") else read_json(tree, path)
        if document is not None:
            break
    else:
        return None
    assets = as_mapping(document.get("assets"))
    pages = given_text(document.get("pages_build_output_dir"))
    # Of a Worker without files, the build makes no site.
    command = text_of(as_mapping(document.get("build")).get("command")) if assets.get("directory") else None
    handling = assets.get("not_found_handling")
    return _site_file(
        path,
        Routing(),
        {"build_command": "build.command"}
        | {"output_directory": "pages_build_output_dir" if pages else "assets.directory"},
        build_command=command or None,
        output_directory=pages or given_text(assets.get("directory")),
        is_application=True if handling == "single-page-application" else None,
        address_variables=("CF_PAGES_URL",),
    )


def read_render(tree: SourceTree, directory: str) -> SiteFile | None:
    """render.yaml: its static site, where it has exactly one."""
    path = join(directory, "render.yaml")
    document = read_yaml(tree, path)
    services = [
        service
        for service in _list((document or {}).get("services"))
        if "static" in (service.get("type"), service.get("env"), service.get("runtime"))
    ]
    if len(services) != 1:
        return None
    [service] = services
    variables = {str(item.get("key")): item.get("value") for item in _list(service.get("envVars"))}
    routing = RoutingBuilder()
    for rule in _list(service.get("routes")):
        status = 200 if rule.get("type") == "rewrite" else 301
        routing.add_redirect(rule.get("source"), rule.get("destination"), status)
    for rule in _list(service.get("headers")):
        routing.add_headers(rule.get("path"), _pairs([rule], "name"))
    base = given_text(service.get("rootDir"))
    return _site_file(
        path,
        routing.build(),
        {"base": "rootDir", "build_command": "buildCommand", "output_directory": "staticPublishPath"},
        base=None if base is None else join(directory, base.lstrip("/") or "."),
        build_command=text_of(service.get("buildCommand")),
        output_directory=given_text(service.get("staticPublishPath")),
        node_version=version_of(variables.get("NODE_VERSION")),
        environment=environment_of({name: value for name, value in variables.items() if value is not None}),
        address_variables=("RENDER_EXTERNAL_URL",),
    )


def read_azure(tree: SourceTree, directory: str) -> SiteFile | None:
    """staticwebapp.config.json, next to the sources or among the files that are published as they are."""
    places = (join(directory, f"{place}/staticwebapp.config.json") for place in (".", "public", "src", "static"))
    path = next((place for place in places if tree.is_file(place)), None)
    document = read_json(tree, path) if path else None
    if path is None or document is None:
        return None
    routing = RoutingBuilder()
    for rule in _list(document.get("routes")):
        target, place = rule.get("redirect") or rule.get("rewrite"), rule.get("route")
        if target:
            routing.add_redirect(place, target, rule.get("statusCode", 302 if rule.get("redirect") else 200))
        if rule.get("headers"):
            routing.add_headers(place, as_mapping(rule.get("headers")))
    if document.get("globalHeaders"):
        routing.add_headers("/*", as_mapping(document.get("globalHeaders")))
    fallback = as_mapping(document.get("navigationFallback")).get("rewrite")
    if fallback:
        routing.add_redirect("/*", fallback, 200)
    return _site_file(path, routing.build(), {})


def _site_file(path: str, routing: Routing, names: Mapping[str, str], **fields: Any) -> SiteFile:
    fields.setdefault("is_application", True if routing.shows_index_for_all else None)
    return SiteFile(path, names, **fields, routing=routing)


def _add_pattern(routing: RoutingBuilder, rule: dict[str, Any], status: object) -> None:
    place = from_pattern(rule.get("source"), rule.get("destination"))
    if place is None or rule.get("has") or rule.get("missing"):
        routing.leave_out()
    else:
        routing.add_redirect(*place, status)


def _pairs(value: Any, name: str) -> dict[str, object]:
    return {str(item.get(name)): item.get("value") for item in _list(value)}


def _list(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list; nothing else."""
    return [item for item in cast("list[Any]", value) if isinstance(item, dict)] if isinstance(value, list) else []
