package main

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/stream"
)

// observeReads makes the instruments of what a store reads: pages of channels, by how
// they came, and how often NATS was asked for them.
func observeReads(meter metric.Meter, stats func() stream.ReadStats) error {
	pages, err1 := meter.Int64ObservableCounter("carillon.store.pages",
		metric.WithDescription("Pages of history served, by source: fetch of one channel for one reader, shared by several, or range, one read for many channels."))
	reads, err2 := meter.Int64ObservableCounter("carillon.store.reads",
		metric.WithDescription("Reads of history from NATS, by kind: fetch of one channel, or range of many."))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := stats()
		for _, c := range []struct {
			of    metric.Int64Observable
			key   string
			value string
			count uint64
		}{
			{pages, "source", "fetch", s.Fetched},
			{pages, "source", "shared", s.Shared},
			{pages, "source", "range", s.Ranged},
			{reads, "kind", "fetch", s.Fetches},
			{reads, "kind", "range", s.Ranges},
		} {
			o.ObserveInt64(c.of, int64(c.count), metric.WithAttributes(attribute.String(c.key, c.value)))
		}
		return nil
	}, pages, reads)
	return err
}

// observeStore makes the instruments of a store's NATS: its connections, what its streams
// keep, and how many messages are on their way.
func observeStore(meter metric.Meter, stats func() stream.Stats) error {
	connected, err1 := meter.Int64ObservableGauge("carillon.nats.connected",
		metric.WithDescription("Whether a connection to NATS stands: 1 or 0."))
	reconnects, err2 := meter.Int64ObservableCounter("carillon.nats.reconnects",
		metric.WithDescription("Times that a connection to NATS was lost and came back."))
	certificates, err7 := meter.Int64ObservableGauge("carillon.nats.certificate.expiry.timestamp", metric.WithUnit("s"),
		metric.WithDescription("When the certificate ends, in seconds since 1970, that NATS showed when the connection was made."))
	messages, err3 := meter.Int64ObservableGauge("carillon.nats.stream.messages",
		metric.WithDescription("Messages that a stream keeps, as its leader last told this process."))
	bytes, err4 := meter.Int64ObservableGauge("carillon.nats.stream.bytes", metric.WithUnit("By"),
		metric.WithDescription("Bytes that a stream keeps, as its leader last told this process."))
	limits, err5 := meter.Int64ObservableGauge("carillon.nats.stream.limit.bytes", metric.WithUnit("By"),
		metric.WithDescription("Bytes that a stream may keep, as this process is configured; beyond them the oldest messages are dropped."))
	slots, err6 := meter.Int64ObservableGauge("carillon.store.slots.used",
		metric.WithDescription("Messages on their way into the store, of 256; more wait in line."))
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := stats()
		for _, c := range s.Connections {
			of := metric.WithAttributes(attribute.String("connection", c.Role))
			o.ObserveInt64(connected, oneIf(c.Connected), of)
			o.ObserveInt64(reconnects, int64(c.Reconnects), of)
			if !c.CertificateEnd.IsZero() {
				o.ObserveInt64(certificates, c.CertificateEnd.Unix(), of)
			}
		}
		for _, kept := range s.Streams {
			of := metric.WithAttributes(attribute.String("stream", kept.Name))
			o.ObserveInt64(messages, int64(kept.Messages), of)
			o.ObserveInt64(bytes, int64(kept.Bytes), of)
			o.ObserveInt64(limits, int64(kept.MaxBytes), of)
		}
		o.ObserveInt64(slots, int64(s.Slots))
		return nil
	}, connected, reconnects, certificates, messages, bytes, limits, slots)
	return err
}

// observeControl makes the gauge of how far behind the control log an edge may be.
func observeControl(meter metric.Meter, stats func() stream.Stats) error {
	_, err := meter.Float64ObservableGauge("carillon.control.lag", metric.WithUnit("s"),
		metric.WithDescription("Time since the edge was last told where the control log ends: what was commanded later it may not know."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			if told := stats().ControlTold; !told.IsZero() {
				o.Observe(time.Since(told).Seconds())
			}
			return nil
		}))
	return err
}

// observeKeys makes the gauge of the keys that issuers publish.
func observeKeys(meter metric.Meter, verifiers ...*auth.Verifier) error {
	_, err := meter.Int64ObservableGauge("carillon.auth.keys.current",
		metric.WithDescription("Whether the latest fetch of an issuer's keys succeeded: 1 or 0, by issuer."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for _, v := range verifiers {
				for issuer, current := range v.KeysCurrent() {
					o.Observe(oneIf(current), metric.WithAttributes(attribute.String("issuer", issuer)))
				}
			}
			return nil
		}))
	return err
}

// observeBounded makes the instruments of listeners that have a bound.
func observeBounded(meter metric.Meter, bounded map[string]*rpc.Bounded) error {
	open, err1 := meter.Int64ObservableGauge("carillon.listener.connections",
		metric.WithDescription("Open connections of a listener for callers, by its name: publish, publish.http, presence."))
	refused, err2 := meter.Int64ObservableCounter("carillon.listener.refused",
		metric.WithDescription("Connections that a listener for callers has closed at once, since it had as many as it may."))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for name, b := range bounded {
			now, gone := b.Connections()
			of := metric.WithAttributes(attribute.String("listener", name))
			o.ObserveInt64(open, now, of)
			o.ObserveInt64(refused, gone, of)
		}
		return nil
	}, open, refused)
	return err
}

// observeBuild makes the gauge that says which version runs.
func observeBuild(meter metric.Meter, version, command string) error {
	_, err := meter.Int64ObservableGauge("carillon.build.info",
		metric.WithDescription("1, with the version of the binary and the command that runs."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(1, metric.WithAttributes(attribute.String("version", version), attribute.String("command", command)))
			return nil
		}))
	return err
}

// oneIf is 1 or 0, which is how a gauge says yes or no.
func oneIf(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
