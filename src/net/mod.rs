//! Links, DHCP, DNS, NTP, LLDP.
