"""Commands that become one of the platform's processes, and the administrator's."""

from __future__ import annotations

import os
import sys
import time

import click

from api.cli.commands.backups import backup, missing_objects, restore
from api.cli.extras import require_server
from api.cli.platform_settings import platform_environment, platform_settings
from shared.plans import Plan
from shared.text.wording import counted

_MIGRATE_PAUSE_SECONDS = 1.0


@click.command()
def api() -> None:
    """Run the HTTP API."""
    _become("api.main")


@click.command()
@click.argument("pool")
@click.option("--threads", type=click.IntRange(1, 256), help="Jobs at once in this process.")
def worker(pool: str, threads: int | None) -> None:
    """Run one worker POOL: clone, install, build, upload, deploy, rollback or preview-cleanup."""
    _become("workers.main", pool, *([] if threads is None else ["--threads", str(threads)]))


@click.command()
def reconciler() -> None:
    """Run the reconciler, which repairs the queue and the router from the database."""
    _become("workers.reconciler")


@click.command()
def exporter() -> None:
    """Run the exporter, which serves the metrics that are read from the stores. One is enough for a platform."""
    _become("workers.exporter.main")


@click.command()
def egress() -> None:
    """Run the egress gateway: the proxy through which installs in Kubernetes pods reach package registries.

    Needs CLOUDIFY_EGRESS_TOKEN, and no server. Workers name it in CLOUDIFY_EGRESS_GATEWAY and CLOUDIFY_EGRESS_CONTROL.
    """
    _become("workers.egress.main")


@click.command()
@click.option(
    "--wait-seconds", type=click.FloatRange(0), default=0, help="How long to wait for a database that doesn't answer."
)
def migrate(wait_seconds: float) -> None:
    """Bring the database to this version."""
    require_server()
    from shared.db.migrate import DatabaseAway, MigrationError
    from shared.db.migrate import migrate as apply

    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            applied = apply(platform_settings().database.url)
            break
        except MigrationError as error:
            if not isinstance(error, DatabaseAway) or time.monotonic() >= deadline:
                raise click.ClickException(str(error).strip()) from error
        time.sleep(_MIGRATE_PAUSE_SECONDS)
    for name in applied:
        click.echo(f"Applied {name}.")
    if not applied:
        click.echo("The database is up to date.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, as_json: bool) -> None:
    """Examine the platform from this machine: settings, servers, clocks, sandbox, routers, workers, registries.

    Says what to do about each thing that is wrong. Exit codes: 0 nothing is wrong, 1 something is, 2 the settings
    can't be used.
    """
    require_server()
    # The settings are examined, too.
    os.environ.update(platform_environment(is_needed=False))
    _become("workers.doctor.main", *(["--json"] if as_json else []))


@click.group()
def admin() -> None:
    """Commands for the platform's administrator; they need the platform's own settings."""
    require_server()


@admin.command("create-owner")
@click.argument("email")
def create_owner(email: str) -> None:
    """Make the account EMAIL, an administrator of the platform on the largest plan.

    Asks for the password, or reads the first line of stdin where that is no terminal. Prints an API token of the
    account, once: `cloudify login` takes it.
    """
    from api.backends import connect_backends
    from api.services import build_account_services
    from schemas.accounts import CreateTokenRequest
    from shared.clock import SystemClock
    from shared.errors import CloudifyError, Conflict

    settings = platform_settings()
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    backends = connect_backends(settings)
    try:
        accounts, tokens = build_account_services(settings, backends, SystemClock())
        owner = accounts.create_owner(email, password)
        token = tokens.create(owner.id, CreateTokenRequest(name="cloudify admin create-owner")).token
    except Conflict as error:
        raise click.ClickException(
            f"An account with the address {email} exists already, and nothing was changed. Sign in with it, or choose "
            "another address."
        ) from error
    except CloudifyError as error:
        fields = (error.details or {}).get("fields", [])
        problems = "; ".join(f"{field['field']} {field['message']}" for field in fields)
        raise click.ClickException(problems or error.message) from error
    finally:
        backends.close()
    click.echo(
        f"{owner.email} is an administrator of the platform now. A token of the account, shown only here:", err=True
    )
    click.echo(token)


@admin.command("set-plan")
@click.argument("email")
@click.argument("plan", type=click.Choice([plan.value for plan in Plan], case_sensitive=False))
def set_plan(email: str, plan: str) -> None:
    """Give the account EMAIL another PLAN; it takes effect on what is queued already."""
    from api.backends import connect_backends
    from api.services import build_account_services
    from shared.clock import SystemClock
    from shared.errors import CloudifyError

    settings = platform_settings()
    backends = connect_backends(settings)
    try:
        accounts, _ = build_account_services(settings, backends, SystemClock())
        accounts.set_plan(email, Plan(plan))
    except CloudifyError as error:
        raise click.ClickException(error.message) from error
    finally:
        backends.close()
    click.echo(f"{email} has the plan {plan} now.")


@admin.command("make-keys")
@click.option("--kubernetes-secret", metavar="NAME", help="Store them as this Secret of the pod's namespace, if new.")
@click.option("--secret-key-name", default="secret-key", show_default=True, help="Key of CLOUDIFY_SECRET_KEY in it.")
@click.option(
    "--encryption-keys-name",
    default="encryption-keys",
    show_default=True,
    help="Key of CLOUDIFY_ENCRYPTION_KEYS in it.",
)
@click.option(
    "--egress-token-name", default="egress-token", show_default=True, help="Key of CLOUDIFY_EGRESS_TOKEN in it."
)
def make_keys(
    kubernetes_secret: str | None, secret_key_name: str, encryption_keys_name: str, egress_token_name: str
) -> None:
    """Make the platform's own keys: print them as environment variables, or store them in a Secret.

    A Secret that exists is not changed. Back the keys up: nothing that they have encrypted can be read without them.
    """
    from shared.stack.platform_keys import PlatformKeys

    keys = PlatformKeys.generate()
    if kubernetes_secret is None:
        click.echo(f"CLOUDIFY_SECRET_KEY={keys.secret_key}")
        click.echo(f"CLOUDIFY_ENCRYPTION_KEYS={keys.encryption_keys}")
        click.echo(f"CLOUDIFY_EGRESS_TOKEN={keys.egress_token}")
        return
    from api.cli.kubernetes_secret import KubernetesError, create_secret, open_api_server, own_namespace

    values = {
        secret_key_name: keys.secret_key,
        encryption_keys_name: keys.encryption_keys,
        egress_token_name: keys.egress_token,
    }
    try:
        with open_api_server() as api_server:
            is_new = create_secret(api_server, own_namespace(), kubernetes_secret, values)
    except KubernetesError as error:
        raise click.ClickException(str(error)) from error
    if is_new:
        click.echo(f"The keys are in the new Secret {kubernetes_secret}; back it up.", err=True)
    else:
        click.echo(f"The Secret {kubernetes_secret} exists already; its keys stay.", err=True)


@admin.command("rotate-keys")
def rotate_keys() -> None:
    """Wrap every stored secret with the first of CLOUDIFY_ENCRYPTION_KEYS; then the others can be dropped.

    Restart the API and the workers with the new setting first: one that still has the old one seals with the old key.
    """
    from api.backends import connect_backends
    from api.services import build_repository_credential_service, build_variable_service
    from shared.errors import CloudifyError

    settings = platform_settings()
    backends = connect_backends(settings)
    try:
        variables = build_variable_service(settings, backends).rotate_keys()
        credentials = build_repository_credential_service(settings, backends).rotate_keys()
    except CloudifyError as error:
        raise click.ClickException(error.message) from error
    finally:
        backends.close()
    rewrapped = variables.rewrapped + credentials.rewrapped
    unreadable = [*variables.unreadable, *credentials.unreadable]
    click.echo(f"Wrapped {counted(rewrapped, 'secret')} with the key {next(iter(settings.secrets.encryption_keys))}.")
    if unreadable:
        raise click.ClickException(
            f"{len(unreadable)} can't be read, as their key is not in CLOUDIFY_ENCRYPTION_KEYS: "
            f"{', '.join(unreadable[:5])}. Restore the key and repeat, or set these values again."
        )


def _become(module: str, *arguments: str) -> None:
    require_server()
    # By name: the API's code must not import the workers'.
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - our own program


for _command in (backup, restore, missing_objects):
    admin.add_command(_command)
