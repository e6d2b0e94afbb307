package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// certificates are the files by which a process speaks TLS. Parts that start late add
// theirs while others are measured already, and who dials again adds the same once more.
type certificates struct {
	mu    sync.Mutex
	files map[expiring]struct{}
}

// expiring are some files, which tell until when they are good. Equal ones are the same.
type expiring interface{ Expiries() map[string]time.Time }

func (c *certificates) add(files expiring) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = map[expiring]struct{}{}
	}
	c.files[files] = struct{}{}
}

// expiries reads all files. Of one that has several uses the first end counts.
func (c *certificates) expiries() map[string]time.Time {
	c.mu.Lock()
	files := slices.Collect(maps.Keys(c.files))
	c.mu.Unlock()
	all := map[string]time.Time{}
	for _, f := range files {
		for file, end := range f.Expiries() {
			if known, ok := all[file]; !ok || end.Before(known) {
				all[file] = end
			}
		}
	}
	return all
}

// observe makes the gauge of when they end.
func (c *certificates) observe(meter metric.Meter) error {
	_, err := meter.Int64ObservableGauge("carillon.tls.certificate.expiry.timestamp", metric.WithUnit("s"),
		metric.WithDescription("When a file of certificates ends, in seconds since 1970: of a chain the first to end, of authorities the last."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for file, end := range c.expiries() {
				o.Observe(end.Unix(), metric.WithAttributes(attribute.String("file", file)))
			}
			return nil
		}))
	return err
}
