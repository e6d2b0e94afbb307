package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// jaeger is a Jaeger that runs, with what it keeps in memory.
type jaeger struct{ otlp, api string }

// startJaeger runs it with the configuration of deployments/compose.
func startJaeger(t testing.TB, program string) *jaeger {
	t.Helper()
	var environ []string
	listen := func(variable string) string {
		address := reserve(t)
		environ = append(environ, variable+"="+address)
		return address
	}
	j := &jaeger{otlp: "http://" + listen("JAEGER_OTLP_GRPC"), api: "http://" + listen("JAEGER_QUERY_HTTP") + "/api/traces"}
	health := "http://" + listen("JAEGER_HEALTH") + "/status"
	listen("JAEGER_OTLP_HTTP")
	listen("JAEGER_QUERY_GRPC")
	start(t, command{
		name: "jaeger", program: program, environ: environ,
		arguments: []string{"--config", "../../deployments/observability/jaeger.yaml"},
	})
	eventually(t, "jaeger", func() error {
		response, err := httpClient.Get(health)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("its health: %s", response.Status)
		}
		return nil
	})
	return j
}

func (j *jaeger) Endpoint() string { return j.otlp }

func (j *jaeger) Trace(t testing.TB, id string) []telemetrytest.Span {
	t.Helper()
	found := j.get(t, "/"+id)
	if len(found) == 0 {
		return nil
	}
	return found[0].spans()
}

func (j *jaeger) Find(t testing.TB, service, name string, attributes map[string]string) []string {
	t.Helper()
	query := url.Values{"service": {service}, "limit": {"1000"}}
	if len(attributes) > 0 {
		query.Set("tags", encode(t, attributes))
	}
	if name != "" {
		query.Set("operation", name)
	}
	var ids []string
	for _, trace := range j.get(t, "?"+query.Encode()) {
		ids = append(ids, trace.TraceID)
	}
	return ids
}

// jaegerTrace is a trace as Jaeger's API has it.
type jaegerTrace struct {
	TraceID   string
	Processes map[string]struct {
		ServiceName string
		Tags        []jaegerTag
	}
	Spans []struct {
		SpanID, OperationName, ProcessID string
		StartTime, Duration              int64 // microseconds
		Tags                             []jaegerTag
		References                       []struct{ RefType, TraceID, SpanID string }
	}
}

type jaegerTag struct {
	Key   string
	Value any
}

func jaegerTags(tags []jaegerTag) map[string]string {
	texts := map[string]string{}
	for _, tag := range tags {
		texts[tag.Key] = fmt.Sprint(tag.Value)
	}
	return texts
}

// get returns traces; none if there is no such one, or not yet.
func (j *jaeger) get(t testing.TB, path string) []jaegerTrace {
	t.Helper()
	response, err := httpClient.Get(j.api + path)
	if err != nil {
		t.Fatalf("jaeger: %v", err)
	}
	defer response.Body.Close()
	var answer struct {
		Data   []jaegerTrace
		Errors []struct{ Msg string }
	}
	decoder := json.NewDecoder(response.Body)
	decoder.UseNumber() // as they are written
	if err := decoder.Decode(&answer); err != nil {
		t.Fatalf("jaeger: %s: %s: %v", path, response.Status, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNotFound {
		t.Fatalf("jaeger: %s: %s: %v", path, response.Status, answer.Errors)
	}
	return answer.Data
}

// spans are those of a trace in the words of the tests.
func (j *jaegerTrace) spans() []telemetrytest.Span {
	var all []telemetrytest.Span
	for _, s := range j.Spans {
		process, tags := j.Processes[s.ProcessID], jaegerTags(s.Tags)
		span := telemetrytest.Span{
			Trace: j.TraceID, ID: s.SpanID, Name: s.OperationName, Kind: strings.ToUpper(tags["span.kind"]), Attributes: tags,
			Start: time.UnixMicro(s.StartTime), End: time.UnixMicro(s.StartTime + s.Duration),
			Service: process.ServiceName, Instance: jaegerTags(process.Tags)["service.instance.id"],
		}
		if tags["error"] == "true" {
			span.Failed = tags["otel.status_description"]
		}
		for _, reference := range s.References {
			if reference.RefType == "CHILD_OF" {
				span.Parent = reference.SpanID
			} else {
				span.Links = append(span.Links, reference.TraceID)
			}
		}
		slices.Sort(span.Links)
		all = append(all, span)
	}
	return all
}
