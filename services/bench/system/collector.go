//go:build linux

package system

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	metricsv1 "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// collector is a receiver of OTLP in this process, whose CPU is not the servers'. It
// counts spans and drops all that comes.
type collector struct {
	tracev1.UnimplementedTraceServiceServer

	url     string
	server  *grpc.Server
	serving sync.WaitGroup
	spans   atomic.Int64
}

func startCollector(ctx context.Context) (*collector, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &collector{url: "http://" + listener.Addr().String(), server: grpc.NewServer()}
	tracev1.RegisterTraceServiceServer(c.server, c)
	metricsv1.RegisterMetricsServiceServer(c.server, dropMetrics{})
	c.serving.Go(func() { _ = c.server.Serve(listener) }) // ends with Stop
	return c, nil
}

func (c *collector) stop() {
	c.server.Stop()
	c.serving.Wait()
}

// Export counts.
func (c *collector) Export(_ context.Context, request *tracev1.ExportTraceServiceRequest) (*tracev1.ExportTraceServiceResponse, error) {
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans.Add(int64(len(scope.GetSpans())))
		}
	}
	return &tracev1.ExportTraceServiceResponse{}, nil
}

// dropMetrics takes metrics, whose method has the name of that for spans.
type dropMetrics struct {
	metricsv1.UnimplementedMetricsServiceServer
}

// Export drops.
func (dropMetrics) Export(context.Context, *metricsv1.ExportMetricsServiceRequest) (*metricsv1.ExportMetricsServiceResponse, error) {
	return &metricsv1.ExportMetricsServiceResponse{}, nil
}
