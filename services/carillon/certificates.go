package main

import (
	"context"
	"maps"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// certificates are the files by which a process speaks TLS. Parts that start late add
// theirs while others are measured already.
type certificates struct {
	mu    sync.Mutex
	files []func() map[string]time.Time
}

// add takes what tells until when some files are good.
func (c *certificates) add(files func() map[string]time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files = append(c.files, files)
}

// expiries reads all files, each of which may have several uses.
func (c *certificates) expiries() map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]time.Time{}
	for _, files := range c.files {
		maps.Copy(all, files())
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
