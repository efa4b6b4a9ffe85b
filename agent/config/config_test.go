// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestAConfigurationIsReadStrictly(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"an unknown field", "masqurade: true", "masqurade"},
		{"an unknown algorithm", "algorithm: dice", "algorithm"},
		{"a block with bits beyond its length", "masqueradeExcluded: [10.0.0.1/8]", "10.0.0.0/8"},
		{"a size that is no prime", "maglevSize: 100", "maglevSize"},
		{"a switch that is neither on nor off", "externalIPs: maybe", "neither on, nor off"},
		{"a switch for a block with bits beyond its length", "hostPorts: 10.0.0.1/8", "10.0.0.0/8"},
		{"annotations of nobody", "auditAnnotations: tenants", "auditAnnotations"},
		{"a denial of another kind", "deniedIngress: reject", "deniedIngress"},
		{"a port that is none", "reservedPorts: [0]", "reservedPorts[0]"},
		{"an MTU that IPv6 does not allow", "mtu: 500", "between 1280 and 65535"},
		{"an interval of repairs that is none", "repairInterval: often", "is no time of at least 10s"},
		{"repairs that follow each other", "repairInterval: 1s", "is no time of at least 10s"},
		{"more refusals than there may be", "refusals: 1001", "more than 1000"},
		{"a table that is none", "tables: {rulez: 7}", "tables.rulez"},
		{"a table without room", "tables: {rules: 0}", "tables.rules"},
		{"text that is no YAML", "{", "config.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(path, []byte(tt.text), 0o600))
			_, err := Read(path)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, "config.yaml")
		})
	}
}

func TestAConfigurationThatIsNotThereMasquerades(t *testing.T) {
	c, err := Read(filepath.Join(t.TempDir(), "none"))
	require.NoError(t, err)
	options := c.Options()
	require.True(t, options.Masquerade)
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte("masquerade: false\ndevices: [eth1]\n"), 0o600))
	c, err = Read(path)
	require.NoError(t, err)
	options = c.Options()
	require.False(t, options.Masquerade)
	require.Equal(t, []string{"eth1"}, c.Devices)
}

func TestSwitchesAreWrittenAsTheyAreRead(t *testing.T) {
	const text = "auditAnnotations: namespaces\nexternalIPs: \"off\"\nhostPorts: 192.0.2.0/24,2001:db8::/64\nmasquerade: true\nreservedPorts:\n- 22\n"
	c, err := Parse([]byte(text))
	require.NoError(t, err)
	written, err := c.YAML()
	require.NoError(t, err)
	require.Equal(t, text, written)
	options := c.Options()
	require.True(t, options.ExternalIPs.Off)
	require.Len(t, options.HostPorts.Only, 2)
	require.Equal(t, []uint16{22}, options.ReservedPorts)
	plain := Default()
	written, err = plain.YAML()
	require.NoError(t, err)
	require.Equal(t, "masquerade: true\n", written, "what is not chosen is not written")
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "masquerade: false\nmtu: 1400\n", "devices: [eth0]\nreturn: dsr\ntunnel: ipip\nalgorithm: maglev\nmaglevSize: 1021\n",
		"masqueradeExcluded: [10.0.0.0/8, \"fd00::/8\"]\nnodePortAddresses: [192.0.2.0/24]\n", "mtu: 1e3", "externalIPs: \"off\"\nhostPorts: 192.0.2.0/24\nauditAnnotations: policies\nreservedPorts: [22]\n", "null", "- a",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil || c.Validate() != nil {
			return
		}
		text, err := c.YAML()
		require.NoError(t, err)
		again, err := Parse([]byte(text))
		require.NoError(t, err)
		require.NoError(t, again.Validate())
		back, err := again.YAML()
		require.NoError(t, err)
		require.Equal(t, text, back, "what is written is read as the same")
	})
}

func TestFormerNamesOfTablesAreWarnedOf(t *testing.T) {
	c, err := Parse([]byte("tables: {flows: 500, prefixes: 80}"))
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	require.Equal(t, map[model.Table]int{TableCTAnswered: 500, model.TableCIDRs: 80}, c.Tables)
	require.Equal(t, []string{"tables.flows is tables.ct_answered now", "tables.prefixes is tables.ipcache_cidrs now"}, c.Warnings())

	_, err = Parse([]byte("tables: {flows: 500, ct_answered: 80}"))
	require.ErrorContains(t, err, "tables.flows: is ct_answered now, which is there too")
}

func TestTablesOfObjectsHoldTwoStates(t *testing.T) {
	c, err := Parse([]byte("tables: {rules: 1000, ct_answered: 500}"))
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	defaults := map[string]uint32{}
	for _, table := range model.Tables() {
		defaults[string(table)] = 64
	}
	require.Equal(t, 1000, c.Budgets(defaults)[model.TableRules])
	require.Equal(t, 64, c.Budgets(defaults)[model.TableSlotRows])
	room := c.Room(defaults)
	require.Equal(t, uint32(2000), room["rules"])
	require.Equal(t, uint32(128), room["slot_rows"])
	require.Equal(t, uint32(500), room["ct_answered"])
	require.NotContains(t, room, "ct_unanswered", "it is as the datapath has it")
}
