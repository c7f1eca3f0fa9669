"""Generators that Python's packages bring along, one row each."""

from __future__ import annotations

from workers.frameworks.framework import Framework

_HUGO_NAMES = tuple(f"hugo.{kind}" for kind in ("toml", "yaml", "yml", "json"))
# Its names until 0.109, still read.
_HUGO_OLDER_NAMES = tuple(f"config.{kind}" for kind in ("toml", "yaml", "yml", "json"))
_HUGO_FOLDER = tuple(f"config/_default/{name}" for name in (*_HUGO_NAMES, *_HUGO_OLDER_NAMES))
_SPHINX_FILES = (
    "conf.py",
    "docs/conf.py",
    "docs/source/conf.py",
    "source/conf.py",
    "doc/conf.py",
    "doc/source/conf.py",
)

PYTHON_FRAMEWORKS: tuple[Framework, ...] = (
    Framework(
        "hugo",
        "Hugo",
        "none",
        "public",
        "hugo --minify",
        # A script of package.json mostly builds styles; the program itself builds the site.
        scripts=(),
        files=(*_HUGO_NAMES, *_HUGO_FOLDER),
        output_files=(*_HUGO_NAMES, *_HUGO_OLDER_NAMES, *_HUGO_FOLDER),
        output_pattern=r"(?mi)^[ \t{]*[\"']?publishDir[\"']?\s*[:=]\s*['\"]?([^'\"\s#,]+)",
        caches=("resources/_gen",),
        # Zola's config.toml says base_url.
        marked_files=_HUGO_OLDER_NAMES,
        mark=r"(?mi)^[ \t{]*[\"']?baseURL[\"']?\s*[:=]",
        base_option="`baseURL` in Hugo's configuration",
    ),
    Framework(
        "zensical",
        "Zensical",
        "python",
        "site",
        "zensical build",
        files=("zensical.toml",),
        output_files=("zensical.toml", "mkdocs.yml", "mkdocs.yaml"),
        output_pattern=r"(?m)^site_dir\s*[=:]\s*['\"]?([^'\"\s#]+)",
        packages=("zensical",),
    ),
    Framework(
        "mkdocs",
        "MkDocs",
        "python",
        "site",
        "mkdocs build",
        files=("mkdocs.yml", "mkdocs.yaml"),
        output_files=("mkdocs.yml", "mkdocs.yaml"),
        output_pattern=r"(?m)^site_dir:\s*['\"]?([^'\"\s#]+)",
        packages=("mkdocs<2",),
        caches=(".cache/plugin",),
        base_option="`site_url` in mkdocs.yml",
    ),
    Framework(
        "jupyter-book",
        "Jupyter Book",
        "python",
        "_build/html",
        "jupyter-book build .",
        files=("_toc.yml", "book/_toc.yml", "docs/_toc.yml"),
        packages=("jupyter-book<2",),
        only_with=("_config.yml", "book/_config.yml", "docs/_config.yml"),
    ),
    Framework(
        "myst",
        "MyST",
        "python",
        "_build/html",
        "myst build --html",
        files=("myst.yml",),
        packages=("mystmd",),
        base_option="the variable BASE_URL",
    ),
    Framework(
        "nikola",
        "Nikola",
        "python",
        "output",
        "nikola build",
        packages=("Nikola[extras]",),
        # Sphinx's configuration has the same name.
        marked_files=("conf.py",),
        mark=r"(?m)^BLOG_TITLE\s*=",
    ),
    Framework(
        "sphinx",
        "Sphinx",
        "python",
        "_build/html",
        "sphinx-build -b html . _build/html",
        files=_SPHINX_FILES,
        packages=("sphinx",),
    ),
    Framework(
        "pelican",
        "Pelican",
        "python",
        "output",
        "pelican content -o output",
        files=("pelicanconf.py",),
        packages=("pelican[markdown]",),
    ),
)
