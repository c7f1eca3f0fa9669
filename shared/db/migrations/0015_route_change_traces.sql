-- W3C's traceparent of the place in a trace at which the change was appended, for the spans of the routers.
ALTER TABLE route_changes ADD COLUMN traceparent text;
