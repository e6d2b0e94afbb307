package presence

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/presence/view"
)

// observe makes the instruments of what the view holds.
func observe(meter metric.Meter, stats func() view.Stats) error {
	var errs [9]error
	gauge := func(i int, name, description string) (g metric.Int64ObservableGauge) {
		g, errs[i] = meter.Int64ObservableGauge(name, metric.WithDescription(description))
		return g
	}
	counter := func(i int, name, description string) (c metric.Int64ObservableCounter) {
		c, errs[i] = meter.Int64ObservableCounter(name, metric.WithDescription(description))
		return c
	}
	edges := gauge(0, "carillon.presence.edges", "Edges that have reported.")
	connections := gauge(1, "carillon.presence.connections", "Connections that edges have reported.")
	channels := gauge(2, "carillon.presence.channels", "Channels with members.")
	memberships := gauge(3, "carillon.presence.members", "Members of all channels, those held included: a user in two channels counts twice.")
	watchers := gauge(4, "carillon.presence.watchers", "Streams that watch channels, of edges and of callers.")
	joins := counter(5, "carillon.presence.joins", "Times that a user became a member of a channel.")
	leaves := counter(6, "carillon.presence.leaves", "Times that a user ceased to be one.")
	users := gauge(7, "carillon.presence.users", "Users with a connection.")
	changes := counter(8, "carillon.presence.changes", "Joins and leaves together: how often the members of channels have changed.")
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := stats()
		o.ObserveInt64(edges, int64(s.Edges))
		o.ObserveInt64(connections, int64(s.Connections))
		o.ObserveInt64(channels, int64(s.Channels))
		o.ObserveInt64(memberships, int64(s.Members))
		o.ObserveInt64(watchers, int64(s.Watchers))
		o.ObserveInt64(joins, int64(s.Joins))
		o.ObserveInt64(leaves, int64(s.Leaves))
		o.ObserveInt64(users, int64(s.Users))
		o.ObserveInt64(changes, int64(s.Joins+s.Leaves))
		return nil
	}, edges, connections, channels, memberships, watchers, joins, leaves, users, changes)
	return err
}
