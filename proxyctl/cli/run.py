"""`proxyctl run`: the controller itself, in the foreground, and its reasons for not starting in words."""

from __future__ import annotations

import asyncio
import faulthandler

import click

from proxyctl import __version__
from proxyctl.cli.options import DONE, NEGATIVE, USAGE, Command, Options, Stop


@click.command(cls=Command)
@click.pass_obj
def run(options: Options) -> int:
    """Run the controller, in the foreground.

    It ends at SIGTERM and Ctrl-C; nginx goes on with what is live.
    """
    import structlog

    from proxyctl.app import App
    from proxyctl.config import ConfigError
    from proxyctl.model import EngineUnavailable
    from proxyctl.observe.mounts import NotMounted
    from proxyctl.serve import log as logs
    from proxyctl.serve.listeners import CannotListen
    from proxyctl.state import HeldByAnother

    config = options.config()
    logs.configure()
    faulthandler.enable()  # systemd's watchdog sends SIGABRT: the log then says where it was stuck
    structlog.get_logger().info("starting", version=__version__, config=str(options.config_file), state=str(config.state_dir))
    try:
        asyncio.run(App(config, options.config_file).run())
    except HeldByAnother as error:
        raise Stop(f"{error}: two controllers cannot share it; end that one, or set another state.dir", USAGE) from error
    except (CannotListen, ConfigError, NotMounted) as error:
        raise Stop(str(error), USAGE) from error
    except EngineUnavailable as error:
        # In a container, which directories nginx shares is asked of the engine before anything else.
        raise Stop(str(error), NEGATIVE) from error
    except OSError as error:
        raise Stop(_words(error), USAGE) from error
    return DONE


def _words(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hint = ": run it as a user who may write there, or set state.dir, state.runtime and nginx.dir" if error.filename else ""
    return f"{where}{error.strerror or error}{hint}"
