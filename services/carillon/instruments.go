package main

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

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
