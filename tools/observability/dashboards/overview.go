package main

// overview is where somebody on call begins: the four figures of docs/operations.md, and
// whether all processes are well.
func overview() dashboard {
	return dashboard{
		uid: "carillon-overview", title: "Carillon: overview",
		description: "Whether all is well: connections and churn, delivered messages, the time from publishing to delivering, errors and close reasons.",
		rows: []row{
			{title: "Now", height: 4, panels: []panel{
				{title: "Alerts", description: "Alerts of Carillon that fire.", unit: count, now: true, queries: []query{
					{"alerts", `count(ALERTS{alertname=~"Carillon.*", alertstate="firing"}) or vector(0)`},
				}},
				{title: "Edges", description: "Edges that Prometheus sees.", unit: count, now: true, queries: []query{
					{"edges", `count(carillon_edge_connections_limit{$of})`},
				}},
				{title: "Connections", description: "Open connections of all edges.", unit: count, now: true, queries: []query{
					{"connections", `sum(carillon_edge_connections{$of})`},
				}},
				{title: "Delivered", description: "Messages times recipients, a second.", unit: perSecond, now: true, queries: []query{
					{"delivered", `sum(rate(carillon_edge_deliveries_total{$of}[5m]))`},
				}},
				{title: "Store to edge", description: "One message in a hundred takes longer from the store to the edge's queues.", unit: seconds, now: true, queries: []query{
					{"99 %", `histogram_quantile(0.99, sum by (le) (rate(carillon_edge_delivery_latency_seconds_bucket{$of}[5m])))`},
				}},
				{title: "Not stored", description: "Share of the messages of the last hour that were not stored and should have been, as the alerts count it.", unit: share, now: true, queries: []query{
					{"not stored", `carillon:publish_failures:ratio_rate1h`},
				}},
			}},
			{title: "Connections and churn", height: 8, panels: []panel{
				{title: "Connections", description: "Open connections, by edge.", unit: count, stacked: true, queries: []query{
					{"{{instance}}", sumOf("carillon_edge_connections", "instance")},
				}},
				{title: "Churn", description: "Connections opened and closed a second. Both high, and connections level, is a storm: clients that come and go.", unit: perSecond, queries: []query{
					{"opened", `sum(rate(carillon_edge_connections_opened_total{$of}[$__rate_interval]))`},
					{"closed", `sum(rate(carillon_edge_closes_total{$of}[$__rate_interval]))`},
				}},
			}},
			{title: "Messages", height: 8, panels: []panel{
				{title: "Stored", description: "Messages that services have published, a second, by what became of them.", unit: perSecond, stacked: true, queries: []query{
					{"{{outcome}}", rateOf("carillon_publish_messages_total", "outcome")},
				}},
				{title: "Delivered", description: "Messages times recipients, a second, by namespace.", unit: perSecond, stacked: true, queries: []query{
					{"{{namespace}}", rateOf("carillon_edge_deliveries_total", "namespace")},
				}},
			}},
			{title: "From publishing to delivering", height: 8, panels: []panel{
				{title: "Caller to store", description: "From a message's arrival at the publish role until it is stored. The dots are traces.", unit: seconds, queries: quantiles("carillon_publish_duration_seconds", "", "")},
				{title: "Store to edge", description: "From storing a message to queueing it to its recipients. Compares the clocks of two machines. The dots are traces.", unit: seconds, queries: quantiles("carillon_edge_delivery_latency_seconds", "", "")},
			}},
			{title: "Errors and close reasons", height: 8, panels: []panel{
				{title: "Errors", description: "What was refused or failed, a second: commands of clients, calls of services, handshakes.", unit: perSecond, queries: []query{
					{"command: {{outcome}}", `sum by (outcome) (rate(carillon_edge_commands_total{$of, outcome!="OK"}[$__rate_interval]))`},
					{"call: {{code}}", `sum by (code) (rate(carillon_rpc_calls_total{$of, code!="OK"}[$__rate_interval]))`},
					{"handshake: {{outcome}}", `sum by (outcome) (rate(carillon_edge_handshakes_total{$of, outcome!="ok"}[$__rate_interval]))`},
				}},
				{title: "Close reasons", description: "Connections closed a second, by close code and by why, or by the client.", unit: perSecond, stacked: true, queries: []query{
					{"{{code}} {{reason}}", rateOf("carillon_edge_closes_total", "code, reason")},
				}},
			}},
			processes(),
		},
	}
}

// processes is how the processes are, whatever they do.
func processes() row {
	return row{title: "Processes", height: 7, panels: []panel{
		{title: "Ready", description: "Whether all checks of /readyz pass, by process.", unit: yesNo, most: 1, queries: []query{
			{"{{instance}}", `min by (instance) (carillon_ready{$of})`},
		}},
		{title: "CPU", description: "Processor time a second, by process: 1 is a core.", unit: count, queries: []query{
			{"{{instance}}", `sum by (instance) (rate(process_cpu_seconds_total{$of}[$__rate_interval]))`},
		}},
		{title: "Memory", description: "Resident memory, by process.", unit: bytesUnit, queries: []query{
			{"{{instance}}", sumOf("process_resident_memory_bytes", "instance")},
		}},
		{title: "Goroutines", description: "Goroutines, by process. An idle connection has none, but over TLS.", unit: count, queries: []query{
			{"{{instance}}", sumOf("go_goroutines", "instance")},
		}},
	}}
}
