package main

// publishing is what services do: publish, read history, command; and the store behind it.
func publishing() dashboard {
	return dashboard{
		uid: "carillon-publishing", title: "Carillon: publishing and the store",
		description: "The Publish, History and Control APIs, and how it is with NATS and its streams.",
		rows: []row{
			{title: "Publishing", height: 8, panels: []panel{
				{title: "Messages", description: "Messages a second, by namespace and by what became of them.", unit: perSecond, stacked: true, queries: []query{
					{"{{namespace}} {{outcome}}", rateOf("carillon_publish_messages_total", "namespace, outcome")},
				}},
				{title: "Time to store", description: "From a message's arrival at the service to its answer, by namespace. The dots are traces.", unit: seconds, queries: quantiles("carillon_publish_duration_seconds", "namespace", "{{namespace}}")},
				{title: "Not stored", description: "Share of the messages that were not stored and should have been, within the windows of the alerts.", unit: share, queries: []query{
					{"5 min", "carillon:publish_failures:ratio_rate5m"},
					{"1 h", "carillon:publish_failures:ratio_rate1h"},
					{"6 h", "carillon:publish_failures:ratio_rate6h"},
				}},
			}},
			{title: "Calls", height: 8, panels: []panel{
				{title: "Calls", description: "Calls that have ended, a second, by method and code.", unit: perSecond, queries: []query{
					{"{{method}} {{code}}", rateOf("carillon_rpc_calls_total", "method, code")},
				}},
				{title: "Duration", description: "From a call's arrival to its answer, by method; streams have none. The dots are traces.", unit: seconds, queries: quantiles("carillon_rpc_duration_seconds", "method", "{{method}}")},
				{title: "Callers", description: "Open connections of the listeners for callers, and those closed at once since there were too many, a second.", unit: count, queries: []query{
					{"{{listener}} {{instance}}", sumOf("carillon_listener_connections", "listener, instance")},
					{"refused: {{listener}}", rateOf("carillon_listener_refused_total", "listener")},
				}},
				{title: "Payloads", description: "Bytes of the payloads stored a second, by namespace.", unit: byteRate, queries: []query{
					{"{{namespace}}", rateOf("carillon_publish_bytes_total", "namespace")},
				}},
				{title: "Streams", description: "Open PublishStream calls, by process.", unit: count, queries: []query{
					{"{{instance}}", sumOf("carillon_publish_streams", "instance")},
				}},
			}},
			{title: "History and commands", height: 8, panels: []panel{
				{title: "History", description: "Calls of the History API a second, by namespace and outcome.", unit: perSecond, queries: []query{
					{"{{namespace}} {{outcome}}", rateOf("carillon_publish_history_total", "namespace, outcome")},
				}},
				{title: "Time to read", description: "From the arrival of a call of the History API to its answer. The dots are traces.", unit: seconds, queries: quantiles("carillon_publish_history_duration_seconds", "", "")},
				{title: "Commands", description: "Commands of the Control API a second, by name and outcome.", unit: perSecond, queries: []query{
					{"{{command}} {{outcome}}", rateOf("carillon_control_commands_total", "command, outcome")},
				}},
				{title: "Control log", description: "How long ago an edge last knew where the control log ends: about a second while all is well.", unit: seconds, queries: []query{
					{"{{instance}}", `max by (instance) (carillon_control_lag_seconds{$of})`},
				}},
			}},
			{title: "NATS", height: 8, panels: []panel{
				{title: "Connected", description: "Whether the connections to NATS stand, by process and connection.", unit: yesNo, most: 1, queries: []query{
					{"{{instance}} {{connection}}", `min by (instance, connection) (carillon_nats_connected{$of})`},
				}},
				{title: "Reconnects", description: "Times a second that a connection was lost and came back.", unit: perSecond, queries: []query{
					{"{{instance}} {{connection}}", rateOf("carillon_nats_reconnects_total", "instance, connection")},
				}},
				{title: "On their way", description: "Messages on their way into the store, by process. At 256 more wait in line.", unit: count, most: 256, queries: []query{
					{"{{instance}}", `max by (instance) (carillon_store_slots_used{$of})`},
				}},
			}},
			{title: "Streams", height: 8, panels: []panel{
				{title: "Messages kept", description: "Messages that each stream keeps.", unit: count, queries: []query{
					{"{{stream}}", `max by (stream) (carillon_nats_stream_messages{$of})`},
				}},
				{title: "Room", description: "Share of what each stream may keep, by bytes. At 1 the oldest messages go, whatever history.max_age says.", unit: share, most: 1, queries: []query{
					{"{{stream}}", `max by (stream) (carillon_nats_stream_bytes{$of}) / max by (stream) (carillon_nats_stream_limit_bytes{$of})`},
				}},
				{title: "Reads", description: "Reads of history from NATS a second, and the pages that were served by them.", unit: perSecond, queries: []query{
					{"reads: {{kind}}", rateOf("carillon_store_reads_total", "kind")},
					{"pages: {{source}}", rateOf("carillon_store_pages_total", "source")},
				}},
			}},
			processes(),
		},
	}
}
