package main

// nats is what NATS tells of itself, through prometheus-nats-exporter with -prefix=nats.
func nats() dashboard {
	return dashboard{
		uid: "carillon-nats", title: "Carillon: NATS", servers: true,
		description: "The NATS servers as they see themselves: whether all are there, what JetStream keeps on each, and what goes through them.",
		rows: []row{
			{title: "Now", height: 4, panels: []panel{
				{title: "Servers", description: "Servers that say that they are well.", unit: count, now: true, queries: []query{
					{"well", `count(nats_healthz_status_value{$of} == 1)`},
				}},
				{title: "Streams", description: "Streams of all servers, one with several replicas once.", unit: count, now: true, queries: []query{
					{"streams", `count(count by (stream_name) (nats_stream_last_seq{$of}))`},
				}},
				{title: "Streams with a leader", description: "Streams that can be written to and read from.", unit: count, now: true, queries: []query{
					{"with a leader", `count(count by (stream_name) (nats_stream_last_seq{$of, is_stream_leader="true"}))`},
				}},
				{title: "Connections", description: "Connections of all servers: three of each edge, two of each publish role.", unit: count, now: true, queries: []query{
					{"connections", `sum(nats_varz_connections{$of})`},
				}},
			}},
			{title: "Servers", height: 8, panels: []panel{
				{title: "Well", description: "Whether a server answers, and can serve all the streams that it has.", unit: yesNo, most: 1, queries: []query{
					{"{{instance}}", `min by (instance) (nats_healthz_status_value{$of})`},
				}},
				{title: "Others reached", description: "Servers that each server has a route to. In a cluster of three it is two.", unit: count, queries: []query{
					{"{{instance}}", sumOf("nats_varz_remotes", "instance")},
				}},
				{title: "Slow consumers", description: "Connections a second that a server has closed since they did not read fast enough.", unit: perSecond, queries: []query{
					{"{{instance}}", rateOf("nats_varz_slow_consumers", "instance")},
				}},
				{title: "Room for connections", description: "Share of the connections that a server takes, max_connections.", unit: share, most: 1, queries: []query{
					{"{{instance}}", `max by (instance) (nats_varz_connections{$of}) / max by (instance) (nats_varz_max_connections{$of})`},
				}},
			}},
			{title: "JetStream", height: 8, panels: []panel{
				{title: "Room", description: "Share of max_file_store that is used, by server. At 1 messages are refused.", unit: share, most: 1, queries: []query{
					{"{{instance}}", `max by (instance) (nats_varz_jetstream_stats_storage{$of}) / max by (instance) (nats_varz_jetstream_config_max_storage{$of})`},
				}},
				{title: "Promised", description: "Share of max_file_store that the limits of the streams add up to, by server. Beyond 1 no stream is made.", unit: share, most: 1, queries: []query{
					{"{{instance}}", `max by (instance) (nats_varz_jetstream_stats_reserved_storage{$of}) / max by (instance) (nats_varz_jetstream_config_max_storage{$of})`},
				}},
				{title: "Leaders", description: "Streams that each server leads. One that leads all has all the work.", unit: count, stacked: true, queries: []query{
					{"{{instance}}", `count by (instance) (nats_stream_last_seq{$of, is_stream_leader="true"})`},
				}},
				{title: "Behind", description: "Messages that the last replica of a stream is behind the first, by stream. The servers are not asked all at once, so busy streams never show 0.", unit: count, queries: []query{
					{"{{stream_name}}", `max by (stream_name) (nats_stream_last_seq{$of}) - min by (stream_name) (nats_stream_last_seq{$of})`},
				}},
			}},
			{title: "Streams", height: 8, panels: []panel{
				{title: "Replicas", description: "Servers that have each stream.", unit: count, queries: []query{
					{"{{stream_name}}", `count by (stream_name) (nats_stream_last_seq{$of})`},
				}},
				{title: "Messages kept", description: "Messages that each stream keeps, on the server that has the most.", unit: count, queries: []query{
					{"{{stream_name}}", `max by (stream_name) (nats_stream_total_messages{$of})`},
				}},
				{title: "Stored", description: "Messages stored a second, by stream.", unit: perSecond, queries: []query{
					{"{{stream_name}}", `max by (stream_name) (rate(nats_stream_last_seq{$of}[$__rate_interval]))`},
				}},
				{title: "Consumers", description: "Consumers of each stream. Edges make some when many clients come back at once.", unit: count, queries: []query{
					{"{{stream_name}}", `max by (stream_name) (nats_stream_consumer_count{$of})`},
				}},
			}},
			{title: "Traffic and load", height: 8, panels: []panel{
				{title: "Messages", description: "Messages a second in and out, by server, with those between servers.", unit: perSecond, queries: []query{
					{"in {{instance}}", rateOf("nats_varz_in_msgs", "instance")},
					{"out {{instance}}", rateOf("nats_varz_out_msgs", "instance")},
				}},
				{title: "Bytes", description: "Bytes a second in and out, by server, with those between servers.", unit: byteRate, queries: []query{
					{"in {{instance}}", rateOf("nats_varz_in_bytes", "instance")},
					{"out {{instance}}", rateOf("nats_varz_out_bytes", "instance")},
				}},
				{title: "CPU", description: "Processor time, by server: 1 is a core.", unit: count, queries: []query{
					{"{{instance}}", `sum by (instance) (nats_varz_cpu{$of}) / 100`},
				}},
				{title: "Memory", description: "Resident memory, by server.", unit: bytesUnit, queries: []query{
					{"{{instance}}", sumOf("nats_varz_mem", "instance")},
				}},
			}},
		},
	}
}
