package main

// edge is what edges do: who comes, what they ask, what they get, and who does not keep up.
func edge() dashboard {
	return dashboard{
		uid: "carillon-edge", title: "Carillon: edge",
		description: "Connections, commands, deliveries, and what was held back, lost or repaired.",
		rows: []row{
			{title: "Connections", height: 8, panels: []panel{
				{title: "Room", description: "Share of edge.max_connections that is taken, by edge.", unit: share, most: 1, queries: []query{
					{"{{instance}}", `sum by (instance) (carillon_edge_connections{$of}) / sum by (instance) (carillon_edge_connections_limit{$of})`},
				}},
				{title: "Handshakes", description: "Handshakes a second, by outcome.", unit: perSecond, stacked: true, queries: []query{
					{"{{outcome}}", rateOf("carillon_edge_handshakes_total", "outcome")},
				}},
				{title: "Subscriptions", description: "Subscriptions of all connections, and the channels that the edges follow.", unit: count, queries: []query{
					{"subscriptions {{instance}}", sumOf("carillon_edge_subscriptions", "instance")},
					{"channels {{instance}}", sumOf("carillon_edge_channels", "instance")},
				}},
			}},
			{title: "Commands", height: 8, panels: []panel{
				{title: "Commands", description: "Commands of clients a second, by name.", unit: perSecond, stacked: true, queries: []query{
					{"{{command}}", rateOf("carillon_edge_commands_total", "command")},
				}},
				{title: "Refused commands", description: "Commands of clients that were answered with an error, a second, by name and status.", unit: perSecond, queries: []query{
					{"{{command}} {{outcome}}", `sum by (command, outcome) (rate(carillon_edge_commands_total{$of, outcome!="OK"}[$__rate_interval]))`},
				}},
				{title: "Refused before", description: "Handshakes and frames that were refused before they became commands, a second, by reason.", unit: perSecond, queries: []query{
					{"{{reason}}", rateOf("carillon_edge_refusals_total", "reason")},
				}},
			}},
			{title: "Deliveries", height: 8, panels: []panel{
				{title: "Messages", description: "Messages received for channels with listeners, and messages times recipients, a second.", unit: perSecond, queries: []query{
					{"received {{namespace}}", rateOf("carillon_edge_messages_total", "namespace")},
					{"delivered {{namespace}}", rateOf("carillon_edge_deliveries_total", "namespace")},
				}},
				{title: "Store to edge", description: "From storing a message to queueing it to its recipients, by namespace. Compares the clocks of two machines. The dots are traces.", unit: seconds, queries: quantiles("carillon_edge_delivery_latency_seconds", "namespace", "{{namespace}}")},
				{title: "Bytes", description: "Bytes of messages delivered, with their frames, by namespace, and bytes that clients have sent.", unit: byteRate, queries: []query{
					{"delivered {{namespace}}", rateOf("carillon_edge_delivered_bytes_total", "namespace")},
					{"received", `sum(rate(carillon_edge_received_bytes_total{$of}[$__rate_interval]))`},
				}},
			}},
			{title: "Who does not keep up", height: 8, panels: []panel{
				{title: "Waiting", description: "Bytes that wait for clients to read, by edge.", unit: bytesUnit, queries: []query{
					{"{{instance}}", sumOf("carillon_edge_queue_bytes", "instance")},
				}},
				{title: "Slow consumers", description: "Times a second that a client did not read fast enough, by what it got, and messages that a recipient was not sent.", unit: perSecond, queries: []query{
					{"{{policy}}", rateOf("carillon_edge_slow_consumers_total", "policy")},
					{"not sent: {{reason}}", rateOf("carillon_edge_drops_total", "reason")},
				}},
				{title: "Limits", description: "Times a second that a limit held something back, by limit.", unit: perSecond, queries: []query{
					{"{{limit}}", rateOf("carillon_edge_limits_total", "limit")},
				}},
			}},
			{title: "What was missed", height: 8, panels: []panel{
				{title: "Recoveries", description: "Subscriptions a second that were to be resumed, by where the messages come from and by outcome.", unit: perSecond, stacked: true, queries: []query{
					{"{{source}} {{outcome}}", rateOf("carillon_edge_recoveries_total", "source, outcome")},
				}},
				{title: "Gaps", description: "Gaps announced a second, by reason.", unit: perSecond, queries: []query{
					{"{{reason}}", rateOf("carillon_edge_gaps_total", "reason")},
				}},
				{title: "Repairs", description: "Times a second that a channel was read from the store because something had not come by itself.", unit: perSecond, queries: []query{
					{"{{instance}}", rateOf("carillon_edge_repairs_total", "instance")},
				}},
			}},
			{title: "Consoles", height: 6, panels: []panel{
				{title: "Open consoles", description: "Pages of the console that follow an edge.", unit: count, queries: []query{
					{"{{instance}}", sumOf("carillon_console_streams", "instance")},
				}},
				{title: "Sent through the console", description: "Messages a second that somebody wanted to send through the console, by outcome.", unit: perSecond, queries: []query{
					{"{{outcome}}", rateOf("carillon_console_sends_total", "outcome")},
				}},
				{title: "Turned away from the console", description: "Requests a second of those who may not look, or ask too often, by reason.", unit: perSecond, queries: []query{
					{"{{reason}}", rateOf("carillon_console_refusals_total", "reason")},
				}},
			}},
			processes(),
		},
	}
}
