"""Integrations with other libraries, one module each, none of which is imported implicitly.

============================================= ============== =====================================
module                                        extra          what
============================================= ============== =====================================
:mod:`anyssh.integrations.logging`            --             trace events as log records
:mod:`anyssh.integrations.opentelemetry`      ``otel``       metrics for OpenTelemetry
:mod:`anyssh.integrations.prometheus`         ``prometheus`` metrics for Prometheus
:mod:`anyssh.integrations.httpcore`           ``httpcore``   HTTP through a session, for httpcore
:mod:`anyssh.integrations.httpx`              ``httpx``      HTTP through a session, for httpx
============================================= ============== =====================================
"""
