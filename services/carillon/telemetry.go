package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	api "go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/ops"
	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/telemetry"
)

// telemetryStopTimeout bounds what is sent last, when everything else has stopped.
const telemetryStopTimeout = 3 * time.Second

// meterName is the scope of all that Carillon measures.
const meterName = "github.com/carillon-rt/carillon"

// openTelemetry makes what measures and, if there is a collector, what sends to it. It
// is opened before all others and so closed after them.
func (p *process) openTelemetry(ctx context.Context) error {
	options := slices.Clone(p.metering)
	closeTraces := func(context.Context) error { return nil }
	var dropped func() uint64
	if p.config.Telemetry.Endpoint != "" {
		exporter, err := p.newExporter(ctx)
		if err != nil {
			return err
		}
		p.tracer, closeTraces, dropped = exporter.Tracer(), exporter.Close, exporter.Dropped
		options = append(options, metric.WithResource(exporter.Resource()))
		for _, reader := range exporter.Readers() {
			options = append(options, metric.WithReader(reader))
		}
		// What goes wrong while sending is told by the exporter; OpenTelemetry would write
		// it to standard error, in a form of its own.
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { p.logger.Debug("OpenTelemetry", "error", err) }))
	}
	p.ops = ops.New(p.logger, p.config.Ops.PProf, options...)
	p.parts.OnStop("telemetry", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), telemetryStopTimeout)
		defer cancel()
		if err := errors.Join(p.ops.CloseMeters(ctx), closeTraces(ctx)); err != nil {
			p.logger.Warn("what was measured last was not sent", "error", err)
		}
		return nil
	})
	if dropped == nil {
		return nil
	}
	_, err := p.ops.MeterProvider().Meter(meterName).Int64ObservableCounter("carillon.telemetry.dropped",
		api.WithDescription("Spans that the collector has not taken. Those that there was no room for meanwhile are not counted."),
		api.WithInt64Callback(func(_ context.Context, o api.Int64Observer) error {
			o.Observe(int64(dropped()))
			return nil
		}))
	return err
}

// observe measures the process itself.
func (p *process) observe() error {
	return errors.Join(p.ops.Observe(p.meter), observeBuild(p.meter, runningVersion(), string(p.command)), p.certificates.observe(p.meter),
		observeBounded(p.meter, p.bounded))
}

func (p *process) newExporter(ctx context.Context) (*telemetry.Exporter, error) {
	t := p.config.Telemetry
	endpoint, err := url.Parse(t.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("telemetry.endpoint: %w", err)
	}
	headers, err := p.telemetryHeaders()
	if err != nil {
		return nil, err
	}
	files, err := p.telemetryTLS()
	if err != nil {
		return nil, err
	}
	return telemetry.New(ctx, telemetry.Options{
		Endpoint: endpoint, HTTP: t.Protocol == "http", Headers: headers, TLS: files,
		Service: t.ServiceName, Instance: p.instance, Version: runningVersion(),
		SampleRatio: t.SampleRatio.Float(), MetricsInterval: t.MetricsInterval, Logger: p.logger,
	})
}

// telemetryTLS is what the collector is spoken to with; nil: as the system has it.
func (p *process) telemetryTLS() (*tls.Config, error) {
	c := secure.Client(p.config.Telemetry.TLS)
	if !c.Used() {
		return nil, nil //nolint:nilnil // as documented
	}
	current, err := secure.NewClient(c, p.logger.With("for", "telemetry.tls"))
	if err != nil {
		return nil, fmt.Errorf("telemetry.tls: %w", err)
	}
	p.certificates.add(c)
	return current(), nil
}

// telemetryHeaders reads telemetry.headers: name=value, joined by commas, values being
// percent-encoded where they have to be, as OTEL_EXPORTER_OTLP_HEADERS has it.
func (p *process) telemetryHeaders() (map[string]string, error) {
	if p.config.Telemetry.Headers.IsZero() {
		return nil, nil //nolint:nilnil // no headers
	}
	text, err := config.Secrets(p.env.getenv)(p.config.Telemetry.Headers)
	if err != nil {
		return nil, fmt.Errorf("telemetry.headers: %w", err)
	}
	headers := map[string]string{}
	for i, pair := range strings.Split(string(text), ",") {
		name, value, found := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !found || name == "" || err != nil {
			return nil, fmt.Errorf("telemetry.headers: entry %d is not name=value", i+1)
		}
		headers[name] = value
	}
	return headers, nil
}
