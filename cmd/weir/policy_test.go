// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/policy"
)

const deathstar = "testdata/policy/rule1.yaml"

// weirPolicy runs `weir policy` and gives its output and exit code.
func weirPolicy(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"policy"}, args...))
	err := root.Execute()
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), exitCode(err)
}

func TestPolicyCheckNamesTheRuleThatDecides(t *testing.T) {
	for name, tt := range map[string]struct {
		from, to, port string
		code           int
		says           string
	}{
		"a ship of the empire":      {"tiefighter.default", "deathstar.default", "80/tcp", exitOK, "ingress of Pod default/deathstar from Pod default/tiefighter is allowed by CiliumNetworkPolicy/default/rule1 rule 0"},
		"a ship of the alliance":    {"default/xwing", "default/deathstar", "80/tcp", exitFailed, "denied: CiliumNetworkPolicy/default/rule1 selects the pod, and no rule matches"},
		"another port":              {"tiefighter.default", "deathstar", "81/tcp", exitFailed, "no rule matches"},
		"another protocol":          {"10.0.0.2", "10.0.0.1", "80/udp", exitFailed, "no rule matches"},
		"a ping":                    {"tiefighter", "deathstar", "icmp", exitFailed, "no rule matches"},
		"somebody outside":          {"192.0.2.1", "deathstar", "80", exitFailed, "from 192.0.2.1 outside the cluster is denied"},
		"the other way":             {"deathstar", "xwing", "80", exitOK, "egress of Pod default/deathstar to Pod default/xwing is allowed: no policy selects the pod"},
		"a pod to itself":           {"deathstar", "deathstar", "80", exitOK, "no policy is asked"},
		"a pod that is not there":   {"falcon", "deathstar", "80", exitUsage, `there is no pod "falcon"`},
		"a port that is none":       {"xwing", "deathstar", "0/tcp", exitUsage, "give a number and a protocol"},
		"nobody":                    {"", "deathstar", "80", exitUsage, "who wants to reach what?"},
		"a namespace that is wrong": {"xwing.space", "deathstar", "80", exitUsage, "there are default/deathstar, default/tiefighter, default/xwing"},
	} {
		t.Run(name, func(t *testing.T) {
			out, stderr, code := weirPolicy("check", "--from", tt.from, "--to", tt.to, "--port", tt.port, deathstar)
			require.Equal(t, tt.code, code, out+stderr)
			require.Contains(t, out+stderr, tt.says)
		})
	}
}

// Each command of the manual prints there what it prints here, and no warning.
func TestTheManualShowsWhatPolicyCommandsPrint(t *testing.T) {
	needRoot(t)
	manual, err := os.ReadFile("../../docs/policy.md")
	require.NoError(t, err)
	t.Chdir("testdata/policy")
	commands := map[string]int{}
	for _, block := range strings.Split(string(manual), "```console\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for _, shown := range strings.Split("\n"+block, "\n$ ")[1:] {
			line, wanted, _ := strings.Cut(shown, "\n")
			args := strings.Fields(line)
			if len(args) < 2 || args[0] != "weir" || args[1] != "policy" {
				continue
			}
			out, stderr, _ := weirPolicy(args[2:]...)
			require.Equal(t, strings.TrimSpace(wanted), strings.TrimSpace(out), line)
			require.NotContains(t, stderr, "weir:", line)
			commands[args[2]]++
		}
	}
	require.Equal(t, map[string]int{"check": 6, "table": 2, "diff": 1}, commands)
}

// Nodes that policies name are those among the objects.
func TestPolicyCommandsKnowTheNodes(t *testing.T) {
	node := func(zone string) string {
		return "apiVersion: v1\nkind: Node\nmetadata: {name: node-" + zone + ", labels: {zone: " + zone + "}}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0." + strconv.Itoa(int(zone[0])) + "}]}\n---\n"
	}
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nstatus: {podIPs: [{ip: 10.0.0.1}]}\n---\n"
	policy := "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: b}}}]}]}\n"
	ask := func(to, objects string) (stderr string, code int) {
		_, stderr, code = weirPolicy("check", "--from", "web", "--to", to, "--port", "80", testFile(t, "objects.yaml", objects))
		return stderr, code
	}
	stderr, code := ask("192.0.2.1", node("a")+pod+policy)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stderr, "nodes: matches no node")
	for _, zone := range []string{"a", "b", "c", "z"} {
		all := node("b") + node("a") + node("c") + node("z")
		stderr, code = ask("172.18.0."+strconv.Itoa(int(zone[0])), all+strings.Replace(pod, "status:", "spec: {nodeName: node-c}\nstatus:", 1)+policy)
		require.Equal(t, map[bool]int{true: exitFailed, false: exitOK}[zone == "b"], code, zone)
		require.NotContains(t, stderr, "warning", zone)
	}
}

// Blocks of one family allow by that one alone.
func TestPolicyCommandsAskByFamily(t *testing.T) {
	pods := ""
	for i, name := range []string{"a", "b"} {
		pods += fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nstatus: {podIPs: [{ip: 10.0.0.%d}, {ip: \"fd00::%d\"}]}\n---\n", name, i+1, i+1)
	}
	before := testFile(t, "before.yaml", pods)
	after := testFile(t, "after.yaml", pods+"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/32}}], ports: [{port: 80}]}]}\n")
	for family, want := range map[string]string{
		"ipv4": "FROM       TO         80/tcp\ndefault/a  default/b  allowed\ndefault/b  default/a  denied\n",
		"ipv6": "FROM       TO         80/tcp\ndefault/a  default/b  denied\ndefault/b  default/a  denied\n",
	} {
		out, stderr, code := weirPolicy("table", "--family", family, after)
		require.Equal(t, exitOK, code, stderr)
		require.Equal(t, want, out, family)
	}
	_, stderr, code := weirPolicy("table", "--family", "ipx", after)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--family ipx: expected one of ipv4, ipv6")

	out, stderr, code := weirPolicy("diff", before, after)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, "default/a to default/b tcp by ipv6: was allowed, is denied")
	require.Contains(t, out, "default/a to default/b 81-65535/tcp by ipv4: was allowed, is denied")
	require.Contains(t, out, "default/b to default/a tcp: was allowed, is denied")
}

func TestPolicyCheckAsksInBothFamilies(t *testing.T) {
	const mixed = `apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: b}}
status: {podIPs: [{ip: "fd00::2"}, {ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}, {type: InternalIP, address: "fd00:18::3"}]}
---
`
	egress := func(cidr string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: \"" + cidr + "\"}}]}]}\n---\n"
	}
	const ingress4 = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: b}\nspec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}\n"
	for name, tt := range map[string]struct {
		objects, to string
		code        int
		says        []string
	}{
		"each side in another family":    {mixed + egress("::/0") + ingress4, "b", exitFailed, []string{"denied by ipv4: default/a to default/b", "denied by ipv6: default/a to default/b"}},
		"one family alone":               {mixed + ingress4, "b", exitFailed, []string{"allowed by ipv4: default/a to default/b", "denied by ipv6: default/a to default/b"}},
		"both":                           {mixed, "b", exitOK, []string{"allowed: default/a to default/b 80/tcp\n"}},
		"an address":                     {mixed + ingress4, "10.0.0.2", exitOK, []string{"allowed: default/a to 10.0.0.2"}},
		"a node in a block, by its name": {mixed + egress("172.18.0.0/30"), "n2", exitFailed, []string{"allowed by ipv4: default/a to n2", "denied by ipv6: default/a to n2"}},
		"pods that have no addresses":    {strings.ReplaceAll(mixed, "status: {podIPs", "#") + ingress4, "b", exitFailed, []string{"warning: default/a has no address, and no block of addresses holds it", "denied: default/a to default/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				out, stderr, code := weirPolicy("check", "--from", "a", "--to", tt.to, "--port", "80", testFile(t, "objects.yaml", tt.objects))
				require.Equal(t, tt.code, code, "%s%s", out, stderr)
				for _, text := range tt.says {
					require.Contains(t, stderr+out, text)
				}
			}
		})
	}
	out, _, _ := weirPolicy("check", "--from", "a", "--to", "b", "--port", "80", "-o", "json", testFile(t, "objects.yaml", mixed+ingress4))
	var read struct {
		Allowed bool
		Rulings []struct {
			Family  string
			Allowed bool
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &read))
	require.False(t, read.Allowed)
	families := map[string]bool{}
	for _, r := range read.Rulings {
		families[r.Family] = r.Allowed
	}
	require.Equal(t, map[string]bool{"ipv4": true, "ipv6": false}, families)
}

func TestPolicyDiffTellsFamiliesThatCome(t *testing.T) {
	pods := func(addresses string) string {
		return testFile(t, "objects.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIPs: ["+addresses+"]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\nstatus: {podIPs: ["+strings.ReplaceAll(addresses, "1}", "2}")+"]}\n")
	}
	four, both := pods("{ip: 10.0.0.1}"), pods(`{ip: 10.0.0.1}, {ip: fd00::1}`)
	out, _, _ := weirPolicy("diff", four, both)
	require.Contains(t, out, "default/a to default/b tcp by ipv6: was denied, is allowed: the two ends had no address of this family")
	require.NotContains(t, out, "ipv4")
	out, _, _ = weirPolicy("diff", both, four)
	require.Contains(t, out, "default/a to default/b tcp by ipv6: was allowed, is denied: the two ends have no address of this family any more")
	out, _, _ = weirPolicy("diff", both, both)
	require.Equal(t, "0 changes\n", out)
}

func TestPolicyCommandsSayWhereThereIsNothingToAnswer(t *testing.T) {
	text, err := os.ReadFile(deathstar)
	require.NoError(t, err)
	_, policy, _ := strings.Cut(string(text), "---\napiVersion: cilium.io/v2")
	alone := testFile(t, "policy.yaml", "apiVersion: cilium.io/v2"+policy)
	for _, args := range [][]string{{"table", alone}, {"diff", alone, deathstar}, {"diff", deathstar, alone}} {
		out, stderr, code := weirPolicy(args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "there is no pod with an address among the objects")
		require.Empty(t, out)
	}
	_, stderr, code := weirPolicy("check", "--from", "2001:db8::1", "--to", "deathstar", "--port", "80", deathstar)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "they have no address of one family")

	// Pods as people write them have labels and no status.
	plain := testFile(t, "plain.yaml", strings.ReplaceAll(string(text), "status: ", "# "))
	out, stderr, code := weirPolicy("check", "--from", "xwing", "--to", "deathstar", "--port", "80", plain)
	require.Equal(t, exitFailed, code, stderr)
	require.Contains(t, out, "rule1 selects the pod")
	require.NotContains(t, stderr, "warning")
}

func TestWarningsOfTheOldObjectsAreToldApart(t *testing.T) {
	text, err := os.ReadFile(deathstar)
	require.NoError(t, err)
	typo := testFile(t, "typo.yaml", strings.Replace(string(text), "class: deathstar}\n  ingress", "class: deathstr}\n  ingress", 1))
	_, stderr, _ := weirPolicy("diff", typo, deathstar)
	require.Contains(t, stderr, "warning, before the change: CiliumNetworkPolicy default/rule1: spec.endpointSelector: matches no pod")
	_, stderr, _ = weirPolicy("diff", typo, typo)
	require.Equal(t, 1, strings.Count(stderr, "matches no pod"), "once for both")
}

func TestPolicyCheckPrintsJSON(t *testing.T) {
	out, _, code := weirPolicy("check", "--from", "tiefighter", "--to", "deathstar", "--port", "80", "-o", "json", deathstar)
	require.Equal(t, exitOK, code)
	var answer struct {
		Allowed bool
		Rulings []struct {
			Direction, Policy string
			Rule              *int
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &answer))
	require.True(t, answer.Allowed)
	require.Equal(t, "CiliumNetworkPolicy/default/rule1", answer.Rulings[1].Policy)
	require.Equal(t, 0, *answer.Rulings[1].Rule)
	require.Nil(t, answer.Rulings[0].Rule, "no policy selects the ship")
}

func TestPolicyReadsFoldersAndNamesWhatIsThereTwice(t *testing.T) {
	text, err := os.ReadFile(deathstar)
	require.NoError(t, err)
	folder := t.TempDir()
	pods, policy, _ := strings.Cut(string(text), "---\napiVersion: cilium.io/v2")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "pods.yaml"), []byte(pods), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "rule1.yml"), []byte("apiVersion: cilium.io/v2"+policy), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "README"), []byte("not a manifest"), 0o600))
	out, stderr, code := weirPolicy("check", "--from", "xwing", "--to", "deathstar", "--port", "80", folder)
	require.Equal(t, exitFailed, code, stderr)
	require.Contains(t, out, "rule1 selects the pod")
	_, stderr, code = weirPolicy("check", "--from", "xwing", "--to", "deathstar", "--port", "80", folder, deathstar)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "CiliumNetworkPolicy default/rule1 is in "+folder)
	_, stderr, code = weirPolicy("table", t.TempDir())
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "has no file that ends in .yaml")
}

func TestPolicyTableIsTheSameFromBothEngines(t *testing.T) {
	needRoot(t)
	args := []string{"table", deathstar, "--ports", "80/tcp,81/tcp,53/udp,9/sctp,icmp", "-o", "json", "--engine"}
	fromModel, stderr, code := weirPolicy(append(args, "model")...)
	require.Equal(t, exitOK, code, stderr)
	fromBPF, stderr, code := weirPolicy(append(args, "bpf")...)
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, fromModel, strings.Replace(fromBPF, `"engine":"bpf"`, `"engine":"model"`, 1))
	var table policy.Table
	require.NoError(t, json.Unmarshal([]byte(fromBPF), &table))
	require.Contains(t, table.Allowed, policy.Flow{From: "default/tiefighter", To: "default/deathstar", Port: 80, Protocol: "tcp"})
	require.Contains(t, table.Denied, policy.Flow{From: "default/xwing", To: "default/deathstar", Port: 80, Protocol: "tcp"})
	require.Contains(t, table.Denied, policy.Flow{From: "default/tiefighter", To: "default/deathstar", Port: 81, Protocol: "tcp"})
	require.Len(t, append(table.Allowed, table.Denied...), 3*2*5)
}

func TestPolicyTablePrintsAColumnForEachPort(t *testing.T) {
	out, stderr, code := weirPolicy("table", deathstar, "--ports", "53/udp,80/tcp")
	require.Equal(t, exitOK, code, stderr)
	require.Regexp(t, `(?m)^FROM +TO +53/udp +80/tcp$`, out)
	require.Regexp(t, `(?m)^default/tiefighter +default/deathstar +denied +allowed$`, out)
}

func TestPolicyDiffTellsPairsAndFlows(t *testing.T) {
	text, err := os.ReadFile(deathstar)
	require.NoError(t, err)
	after := testFile(t, "after.yaml", strings.Replace(string(text), "matchLabels: {org: empire}", "matchLabels: {org: alliance}", 1))
	flows := testFile(t, "flows.json", `
{"protocol": "tcp", "tuple": {"src": "10.0.0.2:40000", "dst": "10.0.0.1:80"}, "translated": {"src": "10.0.0.2:40000", "dst": "10.0.0.1:80"}}
{"protocol": "tcp", "tuple": {"src": "10.0.0.2:40001", "dst": "10.0.0.3:80"}}
{"protocol": "udp", "tuple": {"src": "10.0.0.2:40000", "dst": "10.0.0.1:80"}}
`)
	out, stderr, code := weirPolicy("diff", deathstar, after, "--flows", flows)
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, `default/tiefighter to default/deathstar 80/tcp: was allowed, is denied: ingress denied: CiliumNetworkPolicy/default/rule1 selects the pod, and no rule matches
default/xwing to default/deathstar 80/tcp: was denied, is allowed: ingress allowed by CiliumNetworkPolicy/default/rule1 rule 0
cut: tcp 10.0.0.2:40000 to 10.0.0.1:80: ingress denied: CiliumNetworkPolicy/default/rule1 selects the pod, and no rule matches
2 changes
1 of 3 recorded flows would be cut
`, out)
	_, _, code = weirPolicy("diff", "--exit-code", deathstar, after)
	require.Equal(t, exitFailed, code)
	out, _, code = weirPolicy("diff", "--exit-code", deathstar, deathstar)
	require.Equal(t, exitOK, code)
	require.Equal(t, "0 changes\n", out)
}

func TestPolicyDiffSeesPortsRangesAndWhoIsOutside(t *testing.T) {
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nstatus: {podIPs: [{ip: 10.0.0.1}]}\n---\n"
	policy := func(rules string) string {
		return testFile(t, "objects.yaml", pod+"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {}, ingress: ["+rules+"]}\n")
	}
	out, stderr, code := weirPolicy("diff", policy("{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80, endPort: 90}]}"),
		policy("{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}], ports: [{port: 85, endPort: 95}]}"))
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, "outside 192.0.2.0/24 to default/web 80-84/tcp: was allowed, is denied")
	require.Contains(t, out, "outside 192.0.2.0/24 to default/web 91-95/tcp: was denied, is allowed")
	require.Contains(t, out, "outside 192.0.2.128/25 to default/web 80-90/tcp: was allowed, is denied")
	require.Contains(t, out, "3 changes")
}

func TestPolicyDiffReadsACapture(t *testing.T) {
	pods := "apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nstatus: {podIPs: [{ip: 10.1.0.1}]}\n"
	closed := pods + "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed}\nspec: {podSelector: {}, policyTypes: [Egress]}\n"
	out, stderr, code := weirPolicy("diff", testFile(t, "a.yaml", pods), testFile(t, "b.yaml", closed), "--flows", testCapture(t))
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, out, "cut: tcp 10.1.0.1:1000 to 10.96.0.1:80: egress denied")
	require.Contains(t, out, "1 of 1 recorded flows would be cut")
}

func TestPolicyCommandsNameAClusterThatIsNotThere(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "kubeconfig")
	for _, args := range [][]string{
		{"policy", "check", "--from", "a/b", "--to", "c/d", "--port", "80/tcp", "--kubeconfig", missing},
		{"policy", "table", "--kubeconfig", missing},
		{"policy", "diff", "--kubeconfig", missing, "-"},
	} {
		_, stderr, code := weirIn(args...)
		require.NotEqual(t, exitOK, code, args)
		require.Contains(t, stderr, missing, args)
	}
	_, stderr, code := weirIn("policy", "diff", "--kubeconfig", missing)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "which change?")
}

// Exit status 1 is an answer of diff, and of table none.
func TestPolicyTableAndDiffEndWith2OnAMistake(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	text, err := os.ReadFile(deathstar)
	require.NoError(t, err)
	garbled := testFile(t, "garbled.yaml", "kind: [")
	refused := testFile(t, "refused.yaml", strings.Replace(string(text), "port: \"80\"", "port: \"80000\"", 1))
	empty := t.TempDir()
	for name, args := range map[string][]string{
		"table of a missing file":        {"table", missing},
		"table of what is no YAML":       {"table", garbled},
		"table of a refused object":      {"table", refused},
		"table of an empty folder":       {"table", empty},
		"table of no objects":            {"table"},
		"a port that is none":            {"table", deathstar, "--ports", "80/icmp"},
		"no port":                        {"table", deathstar, "--ports", ""},
		"an engine that is none":         {"table", deathstar, "--engine", "magic"},
		"a family that is none":          {"table", deathstar, "--family", "ipv5"},
		"an option that is none":         {"table", deathstar, "--magic"},
		"a missing cluster":              {"table", "--kubeconfig", missing},
		"diff of a missing file":         {"diff", missing, deathstar},
		"diff with a missing file":       {"diff", deathstar, missing, "--exit-code"},
		"diff of what is no YAML":        {"diff", garbled, deathstar},
		"diff with a refused object":     {"diff", deathstar, refused},
		"diff of one":                    {"diff", deathstar},
		"diff of three":                  {"diff", deathstar, deathstar, deathstar},
		"diff of missing flows":          {"diff", deathstar, deathstar, "--flows", missing},
		"diff of flows that are none":    {"diff", deathstar, deathstar, "--flows", garbled},
		"an output that is none":         {"diff", deathstar, deathstar, "-o", "xml"},
		"diff of a missing cluster":      {"diff", "--kubeconfig", missing, deathstar},
		"diff, an option that is none":   {"diff", "--magic"},
		"diff with an empty folder":      {"diff", deathstar, empty},
		"check of a missing file":        {"check", "--from", "xwing", "--to", "deathstar", "--port", "80", missing},
		"check with an option that none": {"check", "--magic"},
	} {
		out, stderr, code := weirPolicy(args...)
		require.Equal(t, exitUsage, code, "%s: %s", name, stderr)
		require.NotEmpty(t, stderr, name)
		require.Empty(t, out, name)
	}
	_, stderr, code := weirPolicy("diff", deathstar, deathstar, "--exit-code")
	require.Equal(t, exitOK, code, stderr)
}

func TestPolicyCommandsReadObjectsWithoutNames(t *testing.T) {
	text, err := os.ReadFile(deathstar)
	require.NoError(t, err)
	folder := t.TempDir()
	const unnamed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {generateName: closed-}\n" +
		"spec: {podSelector: {matchLabels: {class: deathstar}}, policyTypes: [Ingress]}\nstatus: {}\n"
	for name, data := range map[string]string{"a.yaml": string(text), "b.yaml": unnamed, "c.yaml": unnamed} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(data), 0o600))
	}
	out, stderr, code := weirPolicy("table", folder)
	require.Equal(t, exitOK, code, stderr)
	require.NotEmpty(t, out)
	_, stderr, code = weirPolicy("diff", folder, folder, "--exit-code")
	require.Equal(t, exitOK, code, stderr)
}
