package main

// presence is who is where, and who may do what.
func presence() dashboard {
	return dashboard{
		uid: "carillon-presence", title: "Carillon: presence and authorization",
		description: "What the presence replicas hold, and what is asked of rules and issuers.",
		rows: []row{
			{title: "Who is here", height: 8, panels: []panel{
				{title: "Edges", description: "Edges that report to each replica: all replicas should hear all.", unit: count, queries: []query{
					{"{{instance}}", sumOf("carillon_presence_edges", "instance")},
					{"edges there are", `count(carillon_edge_connections_limit)`},
				}},
				{title: "Users", description: "Users with a connection, and their connections, as each replica sees it.", unit: count, queries: []query{
					{"users {{instance}}", sumOf("carillon_presence_users", "instance")},
					{"connections {{instance}}", sumOf("carillon_presence_connections", "instance")},
				}},
				{title: "Members", description: "Members of all channels, as each replica sees it: a user in two channels counts twice.", unit: count, queries: []query{
					{"members {{instance}}", sumOf("carillon_presence_members", "instance")},
					{"channels {{instance}}", sumOf("carillon_presence_channels", "instance")},
				}},
			}},
			{title: "Who comes and goes", height: 8, panels: []panel{
				{title: "Joins and leaves", description: "Users who became members of a channel, and who ceased to be, a second, by replica.", unit: perSecond, queries: []query{
					{"joins {{instance}}", rateOf("carillon_presence_joins_total", "instance")},
					{"leaves {{instance}}", rateOf("carillon_presence_leaves_total", "instance")},
					{"all {{instance}}", rateOf("carillon_presence_changes_total", "instance")},
				}},
				{title: "Watchers", description: "Streams that watch channels, of edges and of callers, by replica.", unit: count, queries: []query{
					{"{{instance}}", sumOf("carillon_presence_watchers", "instance")},
				}},
				{title: "Told to clients", description: "Changes of members queued to connections a second, by edge: pushes times recipients.", unit: perSecond, queries: []query{
					{"{{instance}}", rateOf("carillon_edge_presence_pushes_total", "instance")},
				}},
			}},
			{title: "Who may", height: 8, panels: []panel{
				{title: "Questions", description: "Questions for permission a second, by outcome.", unit: perSecond, stacked: true, queries: []query{
					{"{{outcome}}", rateOf("carillon_authorization_checks_total", "outcome")},
				}},
				{title: "Asked", description: "Requests to an authorization service a second; the other questions were answered from memory.", unit: perSecond, queries: []query{
					{"requests", `sum(rate(carillon_authorization_duration_seconds_count{$of}[$__rate_interval]))`},
					{"of two replicas, since one was silent", `sum(rate(carillon_authorization_hedges_total{$of}[$__rate_interval]))`},
				}},
				{title: "Time to an answer", description: "What an authorization service took to answer. The dots are traces.", unit: seconds, queries: quantiles("carillon_authorization_duration_seconds", "", "")},
			}},
			{title: "Denied", height: 8, panels: []panel{
				{title: "Denials", description: "What clients were not allowed to do, a second, by the rule that decided.", unit: perSecond, stacked: true, queries: []query{
					{"{{rule}} {{action}}", rateOf("carillon_edge_denials_total", "rule, action")},
				}},
				{title: "Issuers' keys", description: "Whether the latest fetch of an issuer's keys succeeded, by process.", unit: yesNo, most: 1, queries: []query{
					{"{{issuer}} {{instance}}", `min by (issuer, instance) (carillon_auth_keys_current{$of})`},
				}},
				{title: "Configuration", description: "Whether the configuration's file was taken, by process; and reloads within an hour, by outcome.", unit: count, queries: []query{
					{"taken {{instance}}", `min by (instance) (carillon_config_current{$of})`},
					{"reloads: {{outcome}}", `sum by (outcome) (increase(carillon_config_reloads_total{$of}[1h]))`},
				}},
			}},
			processes(),
		},
	}
}
