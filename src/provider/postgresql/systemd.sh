# Prints the unit that starts the server of data directory $1 again by itself, and its word for that (systemd.service(5), `Restart=`);
# nothing where there is no such unit. Changes nothing.
set -u
export LC_ALL=C
command -v systemctl >/dev/null 2>&1 || exit 0
[ -r "$1/postmaster.pid" ] || exit 0
read -r pid <"$1/postmaster.pid" || exit 0
# The first line is a mark, the unit's name and what it is.
read -r _ unit _ <<END
$(systemctl status --no-pager --lines=0 "$pid" 2>/dev/null)
END
case ${unit:-} in *.service) ;; *) exit 0 ;; esac
restart=$(systemctl show --property=Restart "$unit" 2>/dev/null) || exit 0
# A clean stop is a success: the other words do nothing after one.
case ${restart#Restart=} in always | on-success) echo "$unit ${restart#Restart=}" ;; esac
