-- W3C's traceparent of the request for the release: a job that is enqueued again joins its trace.
ALTER TABLE releases ADD COLUMN traceparent text;
