// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
)

// Scenario writes the case as a scenario file, in which the model's opinion of
// the last frame is what the scenario wants.
func (r *Report) Scenario() ([]byte, error) {
	w := writer{objs: base(r.Case.Pods, r.Case.Uplink)}
	w.linef("# %s: %s.", r.Where, r.Kind)
	for _, p := range r.Problems {
		w.linef("# %s", p)
	}
	w.linef("# Found with seed %d, in sequence %d.", r.Seed, r.Sequence)
	w.linef("worlds prog")
	w.linef("families ipv4")
	hosts := []string{nodeName}
	for _, name := range r.Case.Pods {
		w.linef("pod %s", name)
		hosts = append(hosts, hostName(name))
	}
	if r.Case.Uplink {
		w.uplink(&r.Case.Options)
		hosts = append(hosts, outsideHost)
	}
	w.linef("silent %s", strings.Join(hosts, " "))
	w.linef("")
	for i := range r.Case.Steps {
		if err := w.step(&r.Case.Steps[i]); err != nil {
			return nil, err
		}
	}
	w.verdict(&r.Expected)
	return append(w.script.Bytes(), w.files.Bytes()...), nil
}

// outsideHost is who sends what comes from outside.
const outsideHost = "internet"

// uplink writes the headers of a network whose uplink has programs.
func (w *writer) uplink(o *model.Options) {
	w.linef("outside %s", outsideHost)
	w.linef("uplink")
	if o.Masquerade {
		line := "masquerade"
		for i, cidr := range o.MasqueradeExcluded {
			if i == 0 {
				line += " except"
			}
			line += " " + cidr.String()
		}
		if o.FirstPort != 0 {
			line += fmt.Sprintf(" ports %d-%d", o.FirstPort, o.LastPort)
		}
		w.linef("%s", line)
	}
	if o.Algorithm == model.AlgorithmMaglev {
		w.linef("maglev %d", o.MaglevSize)
	}
	if o.Return != "" {
		w.linef("return %s %s", o.Return, o.Tunnel)
	}
	for _, cidr := range o.NodePortAddresses {
		w.linef("nodeports on %s", cidr)
	}
}

// hostName is what scenarios call a pod.
func hostName(pod string) string { return strings.TrimPrefix(pod, "default/") }

type writer struct {
	script, files bytes.Buffer
	objs          *manifest.Objects
	changes       int
}

func (w *writer) linef(format string, args ...any) { fmt.Fprintf(&w.script, format+"\n", args...) }

func (w *writer) step(s *Step) error {
	switch {
	case s.Frame != nil:
		w.send(s.Frame)
	case s.Change != nil:
		return w.change(s.Change)
	case s.Renew != "":
		w.linef("renew pod/%s", hostName(s.Renew))
	case s.Collect:
		w.linef("collect")
	default:
		w.linef("advance %s", s.Advance)
	}
	return nil
}

func (w *writer) change(c *Change) error {
	if err := c.to(w.objs); err != nil {
		return err
	}
	if len(c.Delete) > 0 {
		var names []string
		for _, r := range c.Delete {
			names = append(names, r.Kind+"/"+strings.TrimPrefix(r.Namespace+"/", "/")+r.Name)
		}
		w.linef("delete %s", strings.Join(names, " "))
		return nil
	}
	if len(c.Upsert) == 0 { // what is left of a change is that there was one
		c = &Change{Upsert: []v1.Object{w.objs.Namespaces[v1.NamespaceDefault]}}
	}
	name := fmt.Sprintf("change-%d.yaml", w.changes)
	w.changes++
	w.linef("apply %s", name)
	fmt.Fprintf(&w.files, "\n-- %s --\n", name)
	for i, o := range c.Upsert {
		text, err := objectText(o)
		if err != nil {
			return err
		}
		if i > 0 {
			w.files.WriteString("---\n")
		}
		w.files.Write(text)
	}
	return nil
}

// objectText is an object without the empty parts that say nothing.
func objectText(o v1.Object) ([]byte, error) {
	text, err := yaml.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("write object %s: %w", o.GetName(), err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("write object %s: %w", o.GetName(), err)
	}
	// Of a policy's spec all is kept: an empty selector matches everything.
	said := []any{tree["metadata"], tree["status"]}
	if v := tree["apiVersion"]; v == "v1" || v == "discovery.k8s.io/v1" {
		said = []any{tree}
	}
	for _, part := range said {
		prune(part)
	}
	if status, ok := tree["status"].(map[string]any); ok && len(status) == 0 {
		delete(tree, "status")
	}
	if text, err = yaml.Marshal(tree); err != nil {
		return nil, fmt.Errorf("write object %s: %w", o.GetName(), err)
	}
	return text, nil
}

// prune takes out of a value what is empty.
func prune(value any) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			prune(inner)
			if isEmpty(inner) {
				delete(v, key)
			}
		}
	case []any:
		for _, inner := range v {
			prune(inner)
		}
	}
}

func isEmpty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case string:
		return v == ""
	case float64:
		return v == 0
	case int64:
		return v == 0
	}
	return false
}

// send writes a frame: in layers where these give the same bytes.
func (w *writer) send(f *Frame) {
	host := nodeName
	switch f.At.Hook {
	case model.FromContainer:
		host = hostName(f.At.Endpoint)
	case model.FromDevice:
		host = outsideHost
	}
	layers, ok := describe(f.Data)
	if !ok {
		w.linef("# %s", frame.Line(f.Data))
		w.linef("send %s raw(%x)", host, f.Data)
		return
	}
	texts := make([]string, len(layers))
	for i, l := range layers {
		texts[i] = l.String()
	}
	w.linef("send %s %s", host, strings.Join(texts, " "))
}

// describe gives the layers of a frame with the fewest fields that build it.
func describe(data []byte) ([]frame.Layer, bool) {
	layers := frame.Decode(data).Layers()
	for i, l := range layers {
		switch size, _ := l.Get("size"); l.Kind {
		case "padding": // in the frame whatever it holds: built of zeros
			layers[i] = layer("pad", "size", size)
		case "payload":
			text, _ := l.Get("text")
			layers[i] = layer("payload", "hex", frame.Data(text.Bytes()))
			if sized := layer("payload", "size", frame.Num(len(text.Bytes()))); builds(slices.Concat(layers[:i], []frame.Layer{sized}, layers[i+1:]), data) {
				layers[i] = sized
			}
		}
	}
	if !builds(layers, data) {
		return nil, false
	}
	for i := range layers {
		for at := len(layers[i].Fields) - 1; at >= 0; at-- {
			all := layers[i].Fields
			layers[i].Fields = slices.Delete(slices.Clone(all), at, at+1)
			if !builds(layers, data) || layers[i].Kind == "payload" || layers[i].Kind == "pad" {
				layers[i].Fields = all
			}
		}
	}
	return layers, true
}

func builds(layers []frame.Layer, data []byte) bool {
	built, err := frame.Build(layers...)
	return err == nil && bytes.Equal(built, data)
}

// verdict writes what the model wants of the last frame, as far as it leaves
// no choice.
func (w *writer) verdict(e *oracle.Expectation) {
	if e.Action == "" || len(e.Alternatives) > 0 {
		return
	}
	line := "verdict " + string(e.Action)
	switch {
	case e.Action != model.Forward && len(e.Reasons) == 1:
		line += " reason=" + string(e.Reasons[0])
	case e.Action == model.Forward && len(e.Translations) == 1:
		line += " out=" + string(e.Translations[0].Out)
		if reason, sure := e.Telling(); sure {
			line += " reason=" + cmp.Or(string(reason), "none")
		}
	}
	w.linef("%s", line)
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
