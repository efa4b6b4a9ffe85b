// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveMetrics answers Prometheus, probes and profilers.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.opts.Metrics == "" {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", a.opts.Metrics)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w: use another port by --metrics", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(a, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s := a.Status(); !s.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, s.NotReady+"\n")
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// metric describes one metric.
func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("weir_"+name, help, labels, nil)
}

// Describe sends nothing: the reasons are the datapath's to name.
func (a *Agent) Describe(chan<- *prometheus.Desc) {}

// Collect reads the datapath's counters and the agent's state.
func (a *Agent) Collect(out chan<- prometheus.Metric) {
	s := a.Status()
	gauge := func(name, help string, value float64) {
		out <- prometheus.MustNewConstMetric(metric(name, help), prometheus.GaugeValue, value)
	}
	counter := func(name, help string, value float64, labels, values []string) {
		out <- prometheus.MustNewConstMetric(metric(name, help, labels...), prometheus.CounterValue, value, values...)
	}
	ready := 0.0
	if s.Ready {
		ready = 1
	}
	gauge("ready", "Whether pods can be connected.", ready)
	gauge("endpoints_known", "Pods of the node that have addresses.", float64(s.Endpoints.Known))
	gauge("endpoints_ready", "Pods of the node that the datapath has.", float64(s.Endpoints.Ready))
	gauge("services", "Frontends in the datapath.", float64(s.Services))
	gauge("identities", "Identities of pods in use.", float64(s.Identities))
	if a.shared != nil {
		shared, local := a.shared.Count()
		gauge("identities_shared", "Identities that the cluster's nodes have agreed on.", float64(shared))
		gauge("identities_local", "Identities of pods in use that have a number of this node alone.", float64(local))
	}
	gauge("policies", "Policies of all kinds in force.", float64(s.Policies))
	gauge("objects", "Objects of the cluster in force.", float64(s.Objects))
	fields := 0
	for i := range s.Refused {
		if s.Refused[i].FieldOnly {
			fields++
		}
	}
	gauge("objects_refused", "Objects of the cluster that are left out.", float64(len(s.Refused)-fields))
	gauge("claims_lost", "Fields of objects that claim what is another's, and are left out.", float64(fields))
	gauge("fields_ignored", "Fields of objects that say nothing here.", float64(len(s.Ignored)))
	for _, table := range s.Tables {
		of := func(name, help string, value float64) {
			out <- prometheus.MustNewConstMetric(metric(name, help, "table"), prometheus.GaugeValue, value, table.Name)
		}
		of("table_entries", "Entries of a table of the datapath.", float64(table.Entries))
		of("table_room", "Entries that a table of the datapath may have.", float64(table.Room))
		of("table_bytes", "Memory of the kernel that a table of the datapath takes.", float64(table.Bytes))
	}
	gauge("problems", "What fails now.", float64(len(s.Errors)))
	gauge("addresses_used", "Addresses of the node's podCIDRs that are given.", float64(a.store.Pool.Used()))
	gauge("apply_last_seconds", "How long the last change of the datapath took.", s.Apply.Seconds)
	gauge("apply_last_timestamp_seconds", "When the datapath was last changed.", seconds(s.Apply.Last))
	counter("applies_total", "Changes of the datapath.", float64(s.Apply.Count), nil, nil)
	counter("apply_failures_total", "Changes of the datapath that failed.", float64(s.Apply.Failed), nil, nil)
	for _, table := range slices.Sorted(maps.Keys(s.Repair.Entries)) {
		counter("repaired_entries_total", "Entries of a table of the datapath that had drifted from the state in force.", float64(s.Repair.Entries[table]), []string{"table"}, []string{table})
	}
	gauge("repair_last_timestamp_seconds", "When the tables were last compared with the state in force; 0: not yet.", seconds(s.Repair.Last))
	counters, err := a.datapath.Counters()
	if err != nil {
		out <- prometheus.NewInvalidMetric(metric("packets_total", "Packets by hook and reason; no reason: forwarded."), err)
		return
	}
	for _, c := range counters {
		names, values := []string{"hook", "reason"}, []string{string(c.Hook), string(c.Reason)}
		counter("packets_total", "Packets by hook and reason; no reason: forwarded.", float64(c.Packets), names, values)
		counter("bytes_total", "Bytes of packets by hook and reason; no reason: forwarded.", float64(c.Bytes), names, values)
	}
}

// seconds since 1970, as Prometheus has times.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
