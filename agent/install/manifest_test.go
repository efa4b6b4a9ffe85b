// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/model"
)

// documents parses what WriteYAML wrote, by kind and name.
func documents(t *testing.T, m *Manifest) map[string]string {
	var out bytes.Buffer
	require.NoError(t, m.WriteYAML(&out))
	all := map[string]string{}
	for _, text := range strings.Split(out.String(), "---\n")[1:] {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
			Status   any
		}
		require.NoError(t, yaml.Unmarshal([]byte(text), &head))
		require.Nil(t, head.Status, "%s says what only its controller knows", head.Kind)
		all[head.Kind+" "+head.Metadata.Name] = text
	}
	return all
}

func TestManifestRunsAnAgentOnEveryNode(t *testing.T) {
	m, err := NewManifest(Options{Image: "registry.example/weir:1", APIServer: "[fc00::2]:6443", Change: func(c *config.Config) {
		c.MasqueradeExcluded = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Return = model.ReturnDSR
	}})
	require.NoError(t, err)
	all := documents(t, m)
	require.Len(t, all, 9)

	var config corev1.ConfigMap
	require.NoError(t, yaml.UnmarshalStrict([]byte(all["ConfigMap weir-config"]), &config))
	require.Equal(t, "fc00::2", config.Data[keyHost])
	require.Equal(t, "6443", config.Data[keyPort])
	require.Equal(t, "masquerade: true\nmasqueradeExcluded:\n- 10.0.0.0/8\nreturn: dsr\n", config.Data[keyConfig])

	var set appsv1.DaemonSet
	require.NoError(t, yaml.UnmarshalStrict([]byte(all["DaemonSet weir"]), &set))
	spec := set.Spec.Template.Spec
	require.Equal(t, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, spec.Tolerations)
	require.Equal(t, "system-node-critical", spec.PriorityClassName)
	require.True(t, spec.HostNetwork)
	require.Equal(t, "registry.example/weir:1", spec.Containers[0].Image)
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		for _, mount := range c.VolumeMounts {
			require.True(t, volumes[mount.Name], "%s of %s is a volume", mount.Name, c.Name)
		}
	}
}

func TestAgentsStartAnewWhenWhatTheyReadChanges(t *testing.T) {
	digestOf := func(change func(*Options)) string {
		o := Options{APIServer: "192.0.2.1:6443"}
		change(&o)
		m, err := NewManifest(o)
		require.NoError(t, err)
		config, err := m.configMap()
		require.NoError(t, err)
		return m.daemonSet(config).Spec.Template.Annotations[annotationConfig]
	}
	same := digestOf(func(*Options) {})
	require.Equal(t, same, digestOf(func(o *Options) { o.Image = "another:1" }), "the image is in the template itself")
	require.NotEqual(t, same, digestOf(func(o *Options) { o.APIServer = "192.0.2.2:6443" }))
	require.NotEqual(t, same, digestOf(func(o *Options) { o.Change = func(c *config.Config) { c.MTU = 1400 } }))
}

func TestWrongChoicesNameTheirField(t *testing.T) {
	for field, change := range map[string]func(*config.Config){
		"return":               func(c *config.Config) { c.Return = "straight" },
		"maglevSize":           func(c *config.Config) { c.MaglevSize = 100 },
		"mtu":                  func(c *config.Config) { c.MTU = 576 },
		"nodePortAddresses[0]": func(c *config.Config) { c.NodePortAddresses = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} },
	} {
		_, err := NewManifest(Options{APIServer: "192.0.2.1:6443", Change: change})
		require.ErrorContains(t, err, field)
	}
}

func TestAgentsReadWhatIsInstalled(t *testing.T) {
	m, err := NewManifest(Options{APIServer: "192.0.2.1:6443", Change: func(c *config.Config) {
		*c = config.Config{
			MasqueradeExcluded: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
			NodePortAddresses:  []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			Return:             model.ReturnHybrid, Tunnel: model.TunnelGeneve, Algorithm: model.AlgorithmMaglev, MaglevSize: 1021,
			Devices: []string{"eth0", "eth1"}, MTU: 1400,
		}
	}})
	require.NoError(t, err)
	choices, err := m.configMap()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), keyConfig)
	require.NoError(t, os.WriteFile(path, []byte(choices.Data[keyConfig]), 0o644))
	read, err := config.Read(path)
	require.NoError(t, err)
	require.Equal(t, m.Config, read)
}

func TestADryRunNeedsTheAPIServersAddress(t *testing.T) {
	_, err := NewManifest(Options{})
	require.ErrorIs(t, err, ErrNoAPIServer)
}

func TestAgentsMayReadWhatTheyWatchAndChangeNoneOfIt(t *testing.T) {
	var granted []string
	for _, rule := range clusterRole().Rules {
		for _, resource := range rule.Resources {
			granted = append(granted, fmt.Sprint(resource, ".", rule.APIGroups[0], " ", rule.Verbs))
		}
	}
	require.ElementsMatch(t, []string{
		"pods. [get list watch]", "namespaces. [get list watch]", "nodes. [get list watch]", "services. [get list watch]",
		"endpointslices.discovery.k8s.io [get list watch]", "networkpolicies.networking.k8s.io [get list watch]",
		"clusternetworkpolicies.policy.networking.k8s.io [get list watch]",
		"ciliumnetworkpolicies.cilium.io [get list watch]", "ciliumclusterwidenetworkpolicies.cilium.io [get list watch]",
		"customresourcedefinitions.apiextensions.k8s.io [get list watch]",
		"identities.weir.net [get list watch create delete]", "events. [create patch update]",
	}, granted)
}
