package tracing_test

import (
	"errors"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/tracing"
)

const (
	callers = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	another = "00-11111111111111111111111111111111-2222222222222222-01"
)

// A part of nothing is recorded only if it fails, though every trace is sampled.
func TestParts(t *testing.T) {
	t.Parallel()
	tracer, _ := record(t, 1)
	alone := tracer.StartPart(tracing.Context{}, time.Now())
	if alone.Kept(nil) || !alone.Kept(errors.New("failed")) || !alone.Context().Valid() {
		t.Errorf("alone: %+v", alone)
	}
	if part := tracer.StartPart(tracing.Parse(callers), time.Now()); !part.Kept(nil) || part.Context().TraceID() != tracing.Parse(callers).TraceID() {
		t.Errorf("a part: %+v", part)
	}
	var off *tracing.Tracer
	if part := off.StartPart(tracing.Parse(callers), time.Now()); part.Kept(errors.New("failed")) {
		t.Errorf("off: %+v", part)
	}
}

// An operation is part of what it names, else of what its context is about, and goes back
// to the latter where it is not.
func TestStartIn(t *testing.T) { // alone: it counts allocations
	tracer, _ := record(t, 1)
	in, own := tracing.Parse(callers).In(t.Context()), tracing.Parse(another)
	for name, c := range map[string]struct {
		span  func() (tracing.Span, tracing.Context)
		trace string
		to    tracing.Context
	}{
		"own":             {span: func() (tracing.Span, tracing.Context) { return tracer.StartIn(in, own, time.Now()) }, trace: own.TraceID(), to: tracing.Parse(callers)},
		"own in its call": {span: func() (tracing.Span, tracing.Context) { return tracer.StartIn(own.In(t.Context()), own, time.Now()) }, trace: own.TraceID()},
		"the context's":   {span: func() (tracing.Span, tracing.Context) { return tracer.StartIn(in, tracing.Context{}, time.Now()) }, trace: tracing.Parse(callers).TraceID()},
		"apart": {span: func() (tracing.Span, tracing.Context) {
			return tracer.StartIn(tracing.Apart(in), tracing.Context{}, time.Now())
		}, to: tracing.Parse(callers)},
		"apart, own": {span: func() (tracing.Span, tracing.Context) { return tracer.StartIn(tracing.Apart(in), own, time.Now()) }, trace: own.TraceID(), to: tracing.Parse(callers)},
		"apart of nothing": {span: func() (tracing.Span, tracing.Context) {
			return tracer.StartIn(tracing.Apart(t.Context()), tracing.Context{}, time.Now())
		}},
	} {
		span, back := c.span()
		if c.trace != "" && span.Context().TraceID() != c.trace || back != c.to || !span.Context().Valid() {
			t.Errorf("%s: in %s, back to %s", name, span.Context().TraceID(), back.TraceID())
		}
		if c.trace == "" && (span.Context().TraceID() == own.TraceID() || span.Context().TraceID() == tracing.Parse(callers).TraceID()) {
			t.Errorf("%s: no trace of its own", name)
		}
	}
	var off *tracing.Tracer
	if n := testing.AllocsPerRun(100, func() { off.StartIn(in, own, time.Time{}) }); n != 0 {
		t.Errorf("off: %v allocations", n)
	}
}
