"""What Prometheus reads."""

from aiohttp import web

from service.keys import METRICS
from service.metrics import CONTENT_TYPE
from service.wire import Auth, Media, Routes

routes = Routes()


@routes.get("/metrics", auth=Auth.SERVICE, answer=Media(CONTENT_TYPE), database=False)
async def get_metrics(request: web.Request) -> web.Response:
    """Everything that is counted, in Prometheus' text format; all processes added up."""
    return await tell_metrics(request.app)


async def tell_metrics(app: web.Application) -> web.Response:
    """The metrics of an application, whoever asks on whichever port."""
    return web.Response(body=await app[METRICS].expose(), headers={"Content-Type": CONTENT_TYPE})
