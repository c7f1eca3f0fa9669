"""Generators whose program this platform lacks: recognised, so that the message says what to do."""

from __future__ import annotations

from workers.frameworks.framework import Framework

_ELSEWHERE = (
    "Build it elsewhere and deploy the result (commit it, to a branch of its own for instance, and set the project's"
    " output directory to it)"
)
_OR_COMMAND = f"{_ELSEWHERE}, or set a build command that works without {{}}."


def _script(program: str, site: str) -> str:
    return (
        f"Add a script to the repository that downloads {program} for Linux, from {site} for instance, and runs it;"
        " set it as the project's install command (downloads are allowed there) and build command, such as"
        f" `./build.sh`. Or build the site elsewhere and deploy the result."
    )


MISSING_FRAMEWORKS: tuple[Framework, ...] = (
    Framework(
        "zola",
        "Zola",
        "none",
        "public",
        "zola build",
        marked_files=("config.toml", "zola.toml"),
        mark=r"(?m)^base_url\s*=",
        missing="the program zola",
        way_out=_script("the program", "Zola's releases"),
    ),
    Framework(
        "lume",
        "Lume",
        "none",
        "_site",
        "deno task build",
        marked_files=("deno.json", "deno.jsonc", "import_map.json"),
        mark=r"\blume\b",
        missing="Deno",
        way_out=_ELSEWHERE
        + ", or set an install command and a build command that bring Deno along (npm's package `deno`).",
    ),
    Framework(
        "mdbook",
        "mdBook",
        "none",
        "book",
        "mdbook build",
        files=("book.toml",),
        missing="the program mdbook",
        way_out=_script("the program", "mdBook's releases"),
    ),
    Framework(
        "quarto",
        "Quarto",
        "none",
        "_site",
        "quarto render",
        files=("_quarto.yml", "_quarto.yaml"),
        missing="the program quarto",
        way_out=_script("Quarto", "its releases"),
    ),
    Framework(
        "middleman",
        "Middleman",
        "ruby",
        "build",
        "middleman build",
        marked_files=("Gemfile",),
        mark=r"(?m)^\s*gem\s+['\"]middleman\b",
        missing="Ruby",
        way_out=_OR_COMMAND.format("Ruby"),
    ),
    Framework(
        "bridgetown",
        "Bridgetown",
        "ruby",
        "output",
        "bridgetown build",
        marked_files=("Gemfile",),
        mark=r"(?m)^\s*gem\s+['\"]bridgetown\b",
        missing="Ruby",
        way_out=_OR_COMMAND.format("Ruby"),
    ),
    Framework(
        "jekyll",
        "Jekyll",
        "ruby",
        "_site",
        "jekyll build",
        files=("_config.yml", "_config.yaml"),
        output_files=("_config.yml", "_config.yaml"),
        output_pattern=r"(?m)^destination:\s*['\"]?([^'\"\s#]+)",
        missing="Ruby",
        way_out=_OR_COMMAND.format("Ruby"),
    ),
)
