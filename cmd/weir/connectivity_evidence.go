// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/agent/install"
	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/lab/connectivity"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/policy"
)

// witness tells what only others than the lab know of an action that failed.
func (o *connectivityTest) witness() (connectivity.Witness, error) {
	config, err := install.ReadConfig(o.cluster.kubeconfig, o.cluster.context)
	if err != nil {
		return connectivity.Witness{}, err
	}
	clients, err := watch.ConnectBy(config)
	if err != nil {
		return connectivity.Witness{}, err
	}
	return connectivity.Witness{
		Objects: func(ctx context.Context) (*manifest.Objects, error) {
			objs, unread, err := clients.List(ctx)
			if err != nil {
				return nil, err
			}
			compile.LeaveUnread(objs, unread)
			policy.LeaveRefused(objs, manifest.NewObjects())
			return objs, nil
		},
		Policy: ruling,
	}, nil
}

// ruling is the answer of 'weir policy check'.
func ruling(objs *manifest.Objects, from, to, text string) (*connectivity.Ruling, error) {
	port, err := policy.ParsePort(text)
	if err != nil {
		return nil, err
	}
	input := &policy.Input{Objects: objs}
	sender, err := input.FindParty(from)
	if err != nil {
		return nil, err
	}
	target, err := input.FindParty(to)
	if err != nil {
		return nil, err
	}
	answers, err := policy.Check(objs, sender, target, port)
	if err != nil {
		return nil, err
	}
	r := &connectivity.Ruling{From: from, To: to, Port: text, Allowed: policy.Allowed(answers)}
	for i := range answers {
		a := &answers[i]
		if d := a.Denial(); d != nil && d.Action == model.RuleRefuse {
			r.Refused = true
		}
		r.Why = append(r.Why, a.Story()...)
	}
	if len(r.Why) == 0 {
		r.Why = []string{"no policy is asked"}
	}
	return r, nil
}

// reportName is the file of a report's folder that has the whole report.
const reportName = "report.json"

// writeReport makes a folder with a report, and in it a folder for each action of which
// there is evidence.
func writeReport(folder string, report *connectivity.Report) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	errs := []error{writeFile(filepath.Join(folder, reportName), report.JSON)}
	for i := range report.Results {
		if r := &report.Results[i]; r.Evidence != nil {
			errs = append(errs, writeEvidence(filepath.Join(folder, strings.ReplaceAll(r.Name, "/", ".")), r))
		}
	}
	return errors.Join(errs...)
}

func writeEvidence(folder string, r *connectivity.Result) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("write evidence of %s: %w", r.Name, err)
	}
	errs := []error{
		writeFile(filepath.Join(folder, "story.txt"), func(out io.Writer) error {
			_, err := fmt.Fprintln(out, r.Name+"\n"+strings.Join(r.Story(), "\n"))
			return err
		}),
		writeFile(filepath.Join(folder, "objects.yaml"), func(out io.Writer) error { return writeObjects(out, r.Evidence.Objects) }),
	}
	for _, c := range r.Evidence.Captures {
		errs = append(errs, writeFile(filepath.Join(folder, c.End+".pcapng"), func(out io.Writer) error { return writeCapture(out, r, &c) }))
	}
	return errors.Join(errs...)
}

func writeObjects(out io.Writer, objects []json.RawMessage) error {
	for _, o := range objects {
		text, err := yaml.JSONToYAML(o)
		if err == nil {
			_, err = fmt.Fprintf(out, "---\n%s", text)
		}
		if err != nil {
			return fmt.Errorf("write objects: %w", err)
		}
	}
	return nil
}

// writeCapture writes what an end's host sent and got, with an interface for each of its
// own.
func writeCapture(out io.Writer, r *connectivity.Result, c *connectivity.CaptureOf) error {
	w, err := pcap.NewWriter(out, r.Name+" at "+c.End, strings.Join(r.Errors, "\n"))
	if err != nil {
		return err
	}
	interfaces := map[string]int{}
	for i := range c.Frames {
		f := &c.Frames[i]
		at, known := interfaces[f.Interface]
		if !known {
			if at, err = w.AddInterface(f.Interface, "interface of "+c.End); err != nil {
				return err
			}
			interfaces[f.Interface] = at
		}
		direction := pcap.In
		if f.Out {
			direction = pcap.Out
		}
		if err := w.Write(pcap.Packet{Interface: at, Time: f.Time, Data: f.Data, Length: f.Length, Direction: direction}); err != nil {
			return err
		}
	}
	return nil
}
